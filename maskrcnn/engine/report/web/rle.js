"use strict";
// COCO's compressed run lengths. Runs go down the columns and alternate between outside and inside, outside first.

/** The runs of a `counts` text: five bits a character, low ones first; from the fourth on, less the run two before. */
function decodeRuns(text) {
  const runs = [];
  for (let i = 0; i < text.length;) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = text.charCodeAt(i++) - 48;
      value |= (bits & 0x1f) << shift;
      shift += 5;
    } while (bits & 0x20);
    if (bits & 0x10) value |= -1 << shift; // a negative number
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** A mask [x, y, w, h, counts] as {x, y, w, h, pixels}: `pixels` is 0 or 1, w * h of them, column by column. */
function decodeMask([x, y, w, h, counts]) {
  const pixels = new Uint8Array(w * h);
  let at = 0;
  decodeRuns(counts).forEach((run, i) => {
    if (i % 2) pixels.fill(1, at, at + run);
    at += run;
  });
  return { x, y, w, h, pixels };
}
