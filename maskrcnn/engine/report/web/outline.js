"use strict";
// The outline of a mask along the edges of its pixels, so that one path fills it and draws its border at any zoom.

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up

/**
 * Closed polygons [[x, y], ...] in pixels of the picture, the inside on their right hand: outer borders clockwise on
 * the screen, holes the other way round. Pixels that touch at a corner alone are apart.
 */
function traceOutline({ x, y, w, h, pixels }) {
  const inside = (i, j) => i >= 0 && j >= 0 && i < w && j < h && pixels[i * h + j] === 1;
  const stride = w + 1;
  const edges = new Uint8Array(stride * (h + 1)); // at each corner of a pixel, a bit for each direction that leaves it
  for (let i = 0; i < w; i++) {
    for (let j = 0; j < h; j++) {
      if (!inside(i, j)) continue;
      if (!inside(i, j - 1)) edges[j * stride + i] |= 1;
      if (!inside(i + 1, j)) edges[j * stride + i + 1] |= 2;
      if (!inside(i, j + 1)) edges[(j + 1) * stride + i + 1] |= 4;
      if (!inside(i - 1, j)) edges[(j + 1) * stride + i] |= 8;
    }
  }
  const polygons = [];
  for (let start = 0; start < edges.length; start++) {
    while (edges[start]) polygons.push(followEdges(edges, stride, start, x, y));
  }
  return polygons;
}

/** Walks from one corner until it is back there, turning right where it can; takes the edges away as it goes. */
function followEdges(edges, stride, start, x, y) {
  const polygon = [];
  let at = start;
  let before = -1;
  let direction = [0, 1, 2, 3].find((d) => edges[start] & (1 << d));
  for (;;) {
    if (direction !== before) polygon.push([x + (at % stride), y + Math.floor(at / stride)]);
    edges[at] &= ~(1 << direction);
    at += STEPS[direction][0] + STEPS[direction][1] * stride;
    before = direction;
    const right = (before + 1) % 4;
    direction = [right, before, (before + 3) % 4].find((d) => edges[at] & (1 << d));
    // At the start another border may leave from this corner; only a turn to the right would be this one's.
    if (direction === undefined || (at === start && direction !== right)) return polygon;
  }
}

/** All polygons as one path; fill it by the "evenodd" rule, for its holes. */
function pathOf(polygons) {
  const path = new Path2D();
  for (const polygon of polygons) {
    polygon.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}
