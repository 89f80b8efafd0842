"use strict";
// What the evaluation said about one detection or one object of a picture, and in words.

const ERRORS = {
  cls: "wrong category: overlap of 0.5 or more with an object of another category",
  loc: "right category, poorly placed: overlap between 0.1 and 0.5",
  both: "wrong category, poorly placed: overlap of 0.1 to 0.5 with an object of another category",
  dup: "a second detection of an object that a better one has found",
  bkg: "nothing there: overlap below 0.1 with every object",
  missed: "an object without a detection, not even a poorly placed one or one of another category",
};

const isShown = (picture, row, bin) => scoreBin(picture.detections.score[row]) >= bin;

/** "right", "wrong" or "crowd" (which counts as neither). */
function detectionOutcome(picture, row, kind) {
  const error = picture.detections.error[kind][row];
  return error === "" ? "right" : error === "crowd" ? "crowd" : "wrong";
}

/** An object is "right" if a detection at or above the score found it, "wrong" if it was missed. */
function objectOutcome(picture, row, kind, bin) {
  if (picture.objects.crowd[row]) return "crowd";
  const finder = picture.objects.found_by[kind][row];
  return finder >= 0 && isShown(picture, finder, bin) ? "right" : "wrong";
}

/** For masks, an annotation without a segmentation is no object, and shows nowhere; a crowd region does. */
const isEvaluated = ({ objects }, row, kind) => Boolean(objects.crowd[row] || objects.counted[kind][row]);

/** Numbers of one picture at the score: {objects, found, detections, wrong}, of one category or of all (-1). */
function countOutcomes(picture, kind, bin, category) {
  const counts = { objects: 0, found: 0, detections: 0, wrong: 0 };
  picture.objects.label.forEach((label, row) => {
    const outcome = objectOutcome(picture, row, kind, bin);
    if ((category >= 0 && label !== category) || !picture.objects.counted[kind][row]) return;
    counts.objects += 1;
    if (outcome === "right") counts.found += 1;
  });
  picture.detections.label.forEach((label, row) => {
    const outcome = detectionOutcome(picture, row, kind);
    if ((category >= 0 && label !== category) || outcome === "crowd" || !isShown(picture, row, bin)) return;
    counts.detections += 1;
    if (outcome === "wrong") counts.wrong += 1;
  });
  return counts;
}

/** "predicted dog 0.93, IoU 0.34 with a dog". */
function describeDetection(picture, row, kind, classes) {
  const { objects, detections } = picture;
  const name = `predicted ${classes[detections.label[row]]} ${scoreText(detections.score[row])}`;
  if (detections.error[kind][row] === "crowd") {
    return `${name}, in a crowd region, which counts as neither right nor wrong`;
  }
  const about = detections.about[kind][row];
  const iou = fixed(detections.iou[kind][row]);
  if (about < 0) return `${name}, IoU of at most ${iou} with any object`;
  const again = detections.error[kind][row] === "dup" ? ", which another detection has found" : "";
  return `${name}, IoU ${iou} with ${article(classes[objects.label[about]])}${again}`;
}

/** "a dog, 34 x 21 pixels, that no detection found". */
function describeObject(picture, row, kind, classes, bin) {
  const { objects, detections } = picture;
  const [x1, y1, x2, y2] = objects.box[row];
  const name = `${article(classes[objects.label[row]])}, ${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} pixels`;
  if (objects.crowd[row]) return `a crowd region: ${classes[objects.label[row]]}`;
  const finder = objects.found_by[kind][row];
  if (finder < 0) return `${name}, that no detection found`;
  const score = scoreText(detections.score[finder]);
  return `${name}, found with score ${score}${isShown(picture, finder, bin) ? "" : ", below the chosen one"}`;
}

const article = (noun) => `${/^[aeiou]/i.test(noun) ? "an" : "a"} ${noun}`;
