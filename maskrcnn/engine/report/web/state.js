"use strict";
// What the reader has chosen, in one place: sections read it and are told of changes, once a frame.

class State {
  constructor(values) {
    this.values = values;
    this.listeners = [];
    this.changed = new Set();
  }

  /** Calls `listener` after any of these values has changed. */
  on(names, listener) {
    this.listeners.push([names, listener]);
  }

  set(values) {
    const waiting = this.changed.size > 0;
    for (const [name, value] of Object.entries(values)) {
      if (this.values[name] !== value) this.changed.add(name);
      this.values[name] = value;
    }
    if (!waiting && this.changed.size > 0) requestAnimationFrame(() => this.tell());
  }

  tell() {
    const changed = this.changed;
    this.changed = new Set();
    for (const [names, listener] of this.listeners) {
      if (names.some((name) => changed.has(name))) listener();
    }
  }

  /** Figures, curves and errors of the chosen set for masks or boxes. */
  get figures() {
    return this.values.set.kinds[this.values.kind];
  }
}

/** The values that go with a newly chosen set: its first kind, all categories, the score of the best F1. */
function valuesFor(set, kind = Object.keys(set.kinds)[0]) {
  return {
    set,
    kind,
    category: -1,
    bin: bestBin(set, set.kinds[kind], -1) ?? 50,
    layers: layersFor(set, kind),
    colours: set.classes.length > 1 ? "class" : "outcome",
  };
}

/** The layers that the set has, and whether they show at first: masks or else boxes, names if there are several. */
function layersFor(set, kind) {
  const has = (field) =>
    set.pictures.some((p) => [p.objects, p.detections].some((side) => side[field]?.some((v) => v)));
  const masks = kind === "segm" && has("mask");
  return {
    ...(has("mask") && { masks }),
    boxes: !masks,
    ...(has("keypoints") && { keypoints: true }),
    names: set.classes.length > 1,
  };
}
