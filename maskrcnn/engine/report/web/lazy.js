"use strict";
// Drawing what is in sight: when it comes near the window, and again after a change if it is still there.

class Lazy {
  constructor(root = null) {
    this.draws = new Map(); // element -> function
    this.near = new Set();
    this.stale = new Set();
    this.observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.moved(entry)), {
      root,
      rootMargin: "300px",
    });
  }

  add(element, draw) {
    this.draws.set(element, draw);
    this.stale.add(element);
    this.observer.observe(element);
  }

  moved(entry) {
    if (!entry.isIntersecting) return this.near.delete(entry.target);
    this.near.add(entry.target);
    return this.draw(entry.target);
  }

  draw(element) {
    if (this.stale.delete(element)) this.draws.get(element)();
  }

  /** After a change: all are stale, those near the window are drawn now. */
  redraw() {
    this.stale = new Set(this.draws.keys());
    this.near.forEach((element) => this.draw(element));
  }

  /** Everything, for a print. */
  drawAll() {
    this.draws.forEach((_, element) => this.draw(element));
  }

  clear() {
    this.observer.disconnect();
    this.draws.clear();
    this.near.clear();
    this.stale.clear();
  }
}
