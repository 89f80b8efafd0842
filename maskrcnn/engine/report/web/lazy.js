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

  /** After a change: all are stale. Those in sight are drawn now, others near the window once changes pause. */
  redraw() {
    this.stale = new Set(this.draws.keys());
    for (const element of this.near) {
      const { top, bottom } = element.getBoundingClientRect();
      if (bottom > 0 && top < innerHeight) this.draw(element);
    }
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.near.forEach((element) => this.draw(element)), 100);
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
