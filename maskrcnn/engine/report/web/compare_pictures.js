"use strict";
// The same images, ground truth and each run's predictions side by side.

const COMPARED =
  "Better and worse: where another run's quality is furthest above and below the first run's, each at the score of " +
  "its best F1. At the chosen score, a solid line has a match at IoU 0.5, a dashed one has none; in the ground " +
  "truth, it is dashed if any run has missed the object.";

const QUALITY = "Panoptic quality of this picture, 0 to 1, at the score of the run's best F1";

const makeComparePictures = (state) =>
  makeGallery(state, new Viewer(state, () => panesOf(state)), {
    note: COMPARED,
    makeCard: comparedCard,
    text: foundByEach,
  });

/** "9 objects; found: plain 0, two 2". */
function foundByEach(state, picture) {
  const { kind, bin, category, set } = state.values;
  const counts = picture.views.map((view) => countOutcomes(view, kind, bin, category));
  const found = set.members.map(({ run }, i) => `${run.name} ${whole(counts[i].found)}`);
  return `${plural(counts[0].objects, "object")}; found: ${found.join(", ")}`;
}

function panesOf(state) {
  const { members } = state.values.set;
  const truth = {
    name: "ground truth",
    side: "objects",
    of: (picture) => picture.truth,
    describe: (...what) => describeFound(members, ...what),
  };
  return [
    truth,
    ...members.map(({ run }, i) => ({
      name: run.name,
      caption: runName(run),
      side: "detections",
      of: (picture) => picture.views[i],
    })),
  ];
}

function comparedCard(state, item, lazy, open) {
  const { picture } = item;
  const parts = panesOf(state).map((pane, i) => {
    const canvas = make("canvas", { "aria-hidden": "true" });
    canvas.style.aspectRatio = cardAspect(picture);
    const view = pane.of(picture);
    const change = i > 1 ? ` (${signed(gap(view.quality, picture.views[0].quality), 2)})` : "";
    const quality = exists(view.quality) && i > 0 ? `${fixed(view.quality)}${change}` : "";
    const line = make("span", { class: "line" });
    const caption = make(
      "span",
      { class: "caption" },
      pane.caption ?? make("span", {}, pane.name),
      make("span", { class: "quality", title: QUALITY }, quality),
    );
    return { pane, view, canvas, line, element: make("span", { class: "part" }, canvas, caption, line) };
  });
  const card = make(
    "button",
    { type: "button", class: "card compared", onclick: open },
    make("span", { class: "file" }, picture.file),
    make("span", { class: "parts" }, ...parts.map(({ element }) => element)),
  );
  lazy.add(card, () => {
    const look = lookOf(state, picture);
    parts.forEach(({ pane, view, canvas, line }, i) => {
      line.textContent = i === 0
        ? plural(countOutcomes(picture, look.kind, look.bin, look.category).objects, "object")
        : shortCounts(view, look);
      drawPicture(canvas, view, pane.side, look);
    });
  });
  return card;
}

function shortCounts(view, { kind, bin, category }) {
  const { found, detections, wrong } = countOutcomes(view, kind, bin, category);
  return `${whole(found)} found; ${plural(detections, "detection")}, ${whole(wrong)} wrong`;
}

/** "a cell, 20 × 21 pixels: plain 0.93, two not found". */
function describeFound(members, truth, row, kind, classes) {
  const [x1, y1, x2, y2] = truth.objects.box[row];
  const name = `${article(classes[truth.objects.label[row]])}, ${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} pixels`;
  if (truth.objects.crowd[row]) return `a crowd region: ${classes[truth.objects.label[row]]}`;
  const said = members.map(({ run }, i) => {
    const score = foundScore(truth.views[i], kind, row);
    return `${run.name} ${score < 0 ? "not found" : scoreText(score)}`;
  });
  return `${name}: ${said.join(", ")}`;
}
