"use strict";
// A picture with its objects or its detections, drawn on a canvas.
//
// `look` says what is drawn: {window: [x1, y1, x2, y2] in pixels of the picture, kind, bin, category, classes, layers,
// colours: "class" or "outcome", focus: null or {detection: row or -1, object: row or -1}, halo: dark lines around the
// coloured ones, also where nothing is in focus; they take as long to draw as everything else}.

// COCO's skeleton, by index of the 17 keypoints: head, shoulders, arms, trunk, legs.
const SKELETON = [
  [0, 1],
  [0, 2],
  [1, 3],
  [2, 4],
  [3, 5],
  [4, 6],
  [1, 2],
  [5, 6],
  [5, 7],
  [7, 9],
  [6, 8],
  [8, 10],
  [5, 11],
  [6, 12],
  [11, 12],
  [11, 13],
  [13, 15],
  [12, 14],
  [14, 16],
];
const DASHES = { right: [], wrong: [5, 3], crowd: [1.5, 3] }; // in pixels of the screen

const imageCache = new Map(); // of its text -> Image: views of one picture share it
const pathCache = new WeakMap(); // of a mask's row -> Path2D

function imageOf(picture) {
  if (!imageCache.has(picture.webp)) {
    const image = new Image();
    image.src = `data:image/webp;base64,${picture.webp}`;
    imageCache.set(picture.webp, image);
  }
  return imageCache.get(picture.webp);
}

function pathOfMask(mask) {
  if (!pathCache.has(mask)) pathCache.set(mask, pathOf(traceOutline(decodeMask(mask))));
  return pathCache.get(mask);
}

const wholeWindow = (picture) => [0, 0, picture.width, picture.height];

/** Draws one side ("objects" or "detections") once the image is decoded; the canvas keeps its size in the layout. */
async function drawPicture(canvas, picture, side, look) {
  const image = imageOf(picture);
  const ticket = (canvas.ticket = {}); // of several calls that wait for the image, only the last one draws
  if (!image.complete) await image.decode().catch(() => null);
  if (canvas.ticket !== ticket || canvas.clientWidth === 0) return;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const frame = frameOf(canvas, look.window);
  const context = canvas.getContext("2d");
  context.setTransform(frame.scale, 0, 0, frame.scale, frame.left, frame.top);
  context.imageSmoothingEnabled = frame.scale < 3 * ratio;
  if (image.naturalWidth) context.drawImage(image, 0, 0, picture.width, picture.height);
  const shown = rowsShown(picture, side, look);
  for (const item of shown) drawInstance(context, picture[side], item, look, ratio / frame.scale);
  if (look.layers.names) drawNames(context, picture[side], shown, look, frame, ratio);
  canvas.dataset.drawn = shown.length;
}

/** Where the window lies on the canvas: as large as fits, in the middle; in pixels of the canvas. */
function frameOf(canvas, [x1, y1, x2, y2]) {
  const scale = Math.min(canvas.width / (x2 - x1), canvas.height / (y2 - y1));
  const left = (canvas.width - scale * (x1 + x2)) / 2;
  const top = (canvas.height - scale * (y1 + y2)) / 2;
  return { scale, left, top };
}

/** [{row, outcome, faint, strong}]: large ones first, so that small ones are not covered; those in focus last. */
function rowsShown(picture, side, look) {
  const { box, label } = picture[side];
  const focus = look.focus ? look.focus[side === "objects" ? "object" : "detection"] : null;
  const items = [];
  for (let row = 0; row < box.length; row++) {
    const strong = row === focus;
    if (side === "objects" && !isEvaluated(picture, row, look.kind)) continue;
    if (!strong && look.category >= 0 && label[row] !== look.category) continue;
    if (!strong && side === "detections" && !isShown(picture, row, look.bin)) continue;
    const outcome = side === "objects"
      ? objectOutcome(picture, row, look.kind, look.bin)
      : detectionOutcome(picture, row, look.kind);
    const [x1, y1, x2, y2] = box[row];
    items.push({ row, outcome, strong, faint: look.focus !== null && !strong, area: (x2 - x1) * (y2 - y1) });
  }
  return items.sort((a, b) => a.strong - b.strong || b.area - a.area);
}

const colourOf = (instances, item, look) =>
  look.colours === "outcome" ? OUTCOMES[item.outcome] : classColour(instances.label[item.row], look.classes.length);

/** `unit` is one pixel of the screen in pixels of the picture. */
function drawInstance(context, instances, item, look, unit) {
  const colour = colourOf(instances, item, look);
  const mask = look.layers.masks ? instances.mask?.[item.row] : null;
  const halo = look.halo || item.strong;
  const keypoints = look.layers.keypoints ? instances.keypoints?.[item.row] : null;
  context.globalAlpha = item.faint ? 0.35 : 1;
  context.lineJoin = "round";
  if (mask) {
    const path = pathOfMask(mask);
    if (!item.faint) {
      context.globalAlpha = item.outcome === "crowd" ? 0.15 : 0.3;
      context.fillStyle = colour;
      context.fill(path, "evenodd");
      context.globalAlpha = 1;
    }
    strokeOutline(context, path, colour, item, unit, halo);
  }
  if (look.layers.boxes || (look.layers.masks && !mask)) {
    const [x1, y1, x2, y2] = instances.box[item.row];
    const path = new Path2D();
    path.rect(x1, y1, x2 - x1, y2 - y1);
    strokeOutline(context, path, colour, item, unit, halo);
  }
  if (keypoints) drawKeypoints(context, keypoints, colour, unit);
  context.globalAlpha = 1;
}

/** A coloured line, dashed where wrong; with a halo, dark and wide below it, it shows on light ground as well. */
function strokeOutline(context, path, colour, item, unit, halo) {
  const width = (item.strong ? 2.5 : 1.5) * unit;
  if (halo) {
    context.strokeStyle = "rgb(0 0 0 / 55%)";
    context.lineWidth = width + 1.2 * unit;
    context.stroke(path);
  }
  context.setLineDash(DASHES[item.outcome].map((length) => length * unit));
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
  context.setLineDash([]);
}

function drawKeypoints(context, keypoints, colour, unit) {
  const seen = (k) => keypoints[k] && keypoints[k][2] > 0;
  const limbs = new Path2D();
  for (const [a, b] of keypoints.length === 17 ? SKELETON : []) {
    if (!seen(a) || !seen(b)) continue;
    limbs.moveTo(keypoints[a][0], keypoints[a][1]);
    limbs.lineTo(keypoints[b][0], keypoints[b][1]);
  }
  context.strokeStyle = colour;
  context.lineWidth = 1.5 * unit;
  context.stroke(limbs);
  context.fillStyle = "#fff";
  context.lineWidth = unit;
  for (let k = 0; k < keypoints.length; k++) {
    if (!seen(k)) continue;
    context.beginPath();
    context.arc(keypoints[k][0], keypoints[k][1], 2.2 * unit, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }
}

/** Names with scores above the boxes, in the screen's own size. */
function drawNames(context, instances, shown, look, frame, ratio) {
  const { canvas } = context;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const height = 14 * ratio;
  for (const item of shown) {
    if (item.faint) continue;
    const text = nameOf(instances, item, look);
    const width = context.measureText(text).width + 6 * ratio;
    const [x1, y1] = instances.box[item.row];
    const left = Math.max(0, Math.min(frame.left + frame.scale * x1, canvas.width - width));
    const top = Math.max(0, Math.min(frame.top + frame.scale * y1 - height, canvas.height - height));
    context.fillStyle = colourOf(instances, item, look);
    context.fillRect(left, top, width, height);
    context.fillStyle = "#000";
    context.fillText(text, left + 3 * ratio, top + 2 * ratio);
  }
}

function nameOf(instances, item, look) {
  const name = look.classes[instances.label[item.row]];
  if (!instances.score) return item.outcome === "crowd" ? `${name} (crowd)` : name;
  const error = instances.error[look.kind][item.row];
  return `${name} ${scoreText(instances.score[item.row])}${error ? ` ${error}` : ""}`;
}

/** The look that the reader has chosen, of a whole picture. */
function lookOf(state, picture, changes = {}) {
  const { kind, bin, category, layers, colours, set } = state.values;
  return {
    window: wholeWindow(picture),
    kind,
    bin,
    category,
    layers,
    colours,
    classes: set.classes,
    focus: null,
    halo: false,
    ...changes,
  };
}
