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

/** Numbers of one picture at the score: {objects, found, detections, wrong}, of one category or of all (-1). */
function countOutcomes(picture, kind, bin, category) {
  const counts = { objects: 0, found: 0, detections: 0, wrong: 0 };
  picture.objects.label.forEach((label, row) => {
    const outcome = objectOutcome(picture, row, kind, bin);
    if ((category >= 0 && label !== category) || outcome === "crowd") return;
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

function boxIou([ax1, ay1, ax2, ay2], [bx1, by1, bx2, by2]) {
  const both = Math.max(0, Math.min(ax2, bx2) - Math.max(ax1, bx1)) *
    Math.max(0, Math.min(ay2, by2) - Math.max(ay1, by1));
  return both ? both / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both) : 0;
}

/** The object that a detection was compared to: the one it found, else the nearest that its error allows; or -1. */
function partnerOf(picture, row, kind) {
  const { objects, detections } = picture;
  const found = objects.found_by[kind].indexOf(row);
  if (found >= 0) return found;
  const error = detections.error[kind][row];
  const mask = kind === "segm" && detections.mask?.[row] ? decodeMask(detections.mask[row]) : null;
  let best = -1;
  let overlap = 0;
  objects.box.forEach((box, object) => {
    const same = objects.label[object] === detections.label[row];
    if (["loc", "dup"].includes(error) && !same) return;
    if (["cls", "both"].includes(error) && same) return;
    let iou = boxIou(box, detections.box[row]);
    if (iou > 0 && mask && objects.mask?.[object]) iou = maskIou(mask, decodeMask(objects.mask[object]));
    if (iou > overlap) [best, overlap] = [object, iou];
  });
  return best;
}

/** "predicted dog 0.93, IoU 0.34 with a dog". */
function describeDetection(picture, row, kind, classes) {
  const { objects, detections } = picture;
  const name = `predicted ${classes[detections.label[row]]} ${fixed(detections.score[row])}`;
  if (detections.error[kind][row] === "crowd") {
    return `${name}, in a crowd region, which counts as neither right nor wrong`;
  }
  const partner = partnerOf(picture, row, kind);
  const iou = fixed(detections.iou[kind][row]);
  if (partner < 0) return `${name}, IoU ${iou} with any object`;
  const again = detections.error[kind][row] === "dup" ? ", which another detection has found" : "";
  return `${name}, IoU ${iou} with ${article(classes[objects.label[partner]])}${again}`;
}

/** "a dog, 34 x 21 pixels, that no detection found". */
function describeObject(picture, row, kind, classes, bin) {
  const { objects, detections } = picture;
  const [x1, y1, x2, y2] = objects.box[row];
  const name = `${article(classes[objects.label[row]])}, ${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} pixels`;
  if (objects.crowd[row]) return `a crowd region: ${classes[objects.label[row]]}`;
  const finder = objects.found_by[kind][row];
  if (finder < 0) return `${name}, that no detection found`;
  const score = fixed(detections.score[finder]);
  return `${name}, found with score ${score}${isShown(picture, finder, bin) ? "" : ", below the chosen one"}`;
}

const article = (noun) => `${/^[aeiou]/i.test(noun) ? "an" : "a"} ${noun}`;
