"use strict";
// One picture, large: ground truth beside predictions, moved and zoomed by wheel, drag, pinch, buttons and keys.

// What stands side by side: {name, side: "objects" or "detections"} with, if it is not the item's own picture,
// `of`: (picture) => another view of it, `caption`: an element, and `describe`: (picture, row, kind, classes, bin) =>
// text of what lies under the pointer.
const PANES = [{ name: "ground truth", side: "objects" }, { name: "predictions", side: "detections" }];

class Viewer {
  /** panes: () => those for the chosen set. */
  constructor(state, panes = () => PANES) {
    this.state = state;
    this.panesNow = panes;
    this.panes = [];
    this.items = []; // {picture, focus, text: () => string}, through which one can page
    this.index = 0;
    this.pointers = new Map();
    this.row = make("div", { class: "panes" });
    this.title = make("h2", { id: "viewer-title" });
    this.line = make("p", { id: "viewer-line", class: "viewer-line", "aria-live": "polite" });
    this.all = this.makeButton("show all", "Draw the others as well", () => this.dropFocus());
    this.all.id = "viewer-all";
    this.dialog = this.makeDialog();
    document.body.append(this.dialog);
    new ResizeObserver(() => this.draw()).observe(this.row);
    state.on(["bin", "layers", "colours", "kind", "category"], () => this.dialog.open && this.show());
  }

  makeDialog() {
    const buttons = [
      this.makeButton("‹", "Previous picture (p)", () => this.step(-1)),
      this.makeButton("›", "Next picture (n)", () => this.step(1)),
      this.makeButton("−", "Zoom out (-)", () => this.zoom(1 / 1.5)),
      this.makeButton("+", "Zoom in (+)", () => this.zoom(1.5)),
      this.makeButton("fit", "The whole picture (0)", () => this.fit()),
      this.all,
    ];
    const close = this.makeButton("close", "Close (Esc)", () => this.dialog.close());
    const dialog = make(
      "dialog",
      { id: "viewer", class: "viewer", "aria-labelledby": "viewer-title" },
      make("header", {}, this.title, close),
      this.line,
      this.row,
      make(
        "footer",
        {},
        make("div", { class: "buttons" }, ...buttons),
        makeScoreField(this.state, "viewer-score"),
        makeLayers(this.state),
      ),
    );
    dialog.addEventListener("keydown", (event) => this.press(event));
    return dialog;
  }

  makeButton(text, title, onclick) {
    return make("button", { type: "button", title, "aria-label": title, onclick }, text);
  }

  makePanes() {
    this.panes = this.panesNow().map((pane) => ({ of: (picture) => picture, ...pane }));
    for (const pane of this.panes) pane.canvas = this.makeCanvas(pane);
    const many = this.panes.length > 3; // in two rows
    this.row.classList.toggle("many", many);
    this.row.style.setProperty("--columns", many ? Math.ceil(this.panes.length / 2) : this.panes.length);
    this.row.replaceChildren(
      ...this.panes.map(({ name, caption, canvas }) =>
        make("figure", {}, make("figcaption", {}, caption ?? name), canvas)
      ),
    );
  }

  makeCanvas(pane) {
    const canvas = make("canvas", { tabindex: 0, role: "img", "aria-label": pane.name });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    });
    canvas.addEventListener("pointermove", (event) => this.drag(event, pane));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 300), this.placeOf(canvas, event.offsetX, event.offsetY));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => this.zoom(2, this.placeOf(canvas, event.offsetX, event.offsetY)));
    return canvas;
  }

  get item() {
    return this.items[this.index];
  }

  open(items, index) {
    [this.items, this.index] = [items, index];
    this.makePanes();
    this.dialog.showModal();
    this.enter();
  }

  step(by) {
    this.index = (this.index + by + this.items.length) % this.items.length;
    this.enter();
  }

  /** A new picture: zoomed to what is in focus, if anything is. */
  enter() {
    this.focus = this.item.focus;
    this.window = this.focus ? windowAround(this.item.picture, boxesInFocus(this.item.picture, this.focus), 3) : null;
    this.show();
  }

  show() {
    const { picture } = this.item;
    this.title.textContent = `${picture.file} (${this.index + 1} of ${this.items.length})`;
    this.line.textContent = this.item.text();
    this.all.hidden = !this.focus;
    this.draw();
  }

  draw() {
    if (!this.dialog.open || !this.item) return;
    const { picture } = this.item;
    const window = this.window ?? wholeWindow(picture);
    const look = lookOf(this.state, picture, { focus: this.focus, window, halo: true });
    for (const { canvas, of, side } of this.panes) drawPicture(canvas, of(picture), side, look);
  }

  dropFocus() {
    this.focus = null;
    this.show();
    this.panes[0].canvas.focus(); // the button is gone
  }

  fit() {
    this.window = null;
    this.draw();
  }

  /** A place on a canvas (in pixels of the page) -> [x, y] in the picture. */
  placeOf(canvas, left, top) {
    const frame = frameOf(canvas, this.window ?? wholeWindow(this.item.picture));
    const ratio = canvas.width / canvas.clientWidth;
    return [(left * ratio - frame.left) / frame.scale, (top * ratio - frame.top) / frame.scale];
  }

  /** By a factor, keeping `place` (the middle if none is given) where it is. */
  zoom(factor, place = null) {
    const [x1, y1, x2, y2] = this.window ?? wholeWindow(this.item.picture);
    const { width, height } = this.item.picture;
    const size = Math.max(x2 - x1, y2 - y1) / factor;
    if (size < 8 || size > 3 * Math.max(width, height)) return;
    const [x, y] = place ?? [(x1 + x2) / 2, (y1 + y2) / 2];
    this.look([x + (x1 - x) / factor, y + (y1 - y) / factor, x + (x2 - x) / factor, y + (y2 - y) / factor]);
  }

  /** By a distance in the picture. */
  pan(dx, dy) {
    const [x1, y1, x2, y2] = this.window ?? wholeWindow(this.item.picture);
    this.look([x1 + dx, y1 + dy, x2 + dx, y2 + dy]);
  }

  /** At this window, moved so that it does not leave the picture. */
  look(window) {
    this.window = windowWithin(this.item.picture, window);
    this.draw();
  }

  drag(event, pane) {
    const { canvas } = pane;
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.hover(pane, event);
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const now = [event.offsetX, event.offsetY];
    const [from, to] = [this.placeOf(canvas, ...before), this.placeOf(canvas, ...now)];
    this.pointers.set(event.pointerId, now);
    if (others.length === 0) return this.pan(from[0] - to[0], from[1] - to[1]);
    const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
    return this.zoom(distance(now, others[0]) / distance(before, others[0]), this.placeOf(canvas, ...others[0]));
  }

  /** Says what lies under the pointer: the smallest of what is drawn there. */
  hover({ canvas, side, of, describe = side === "objects" ? describeObject : describeDetection }, event) {
    const picture = of(this.item.picture);
    const [x, y] = this.placeOf(canvas, event.offsetX, event.offsetY);
    const look = lookOf(this.state, picture, { focus: this.focus });
    const under = rowsShown(picture, side, look).filter(({ row }) => {
      const [x1, y1, x2, y2] = picture[side].box[row];
      return x >= x1 && x < x2 && y >= y1 && y < y2;
    });
    const smallest = under.sort((a, b) => a.area - b.area)[0];
    this.line.textContent = smallest
      ? describe(picture, smallest.row, look.kind, look.classes, look.bin)
      : this.item.text();
  }

  press(event) {
    if (event.target.matches("input[type=range]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const [x1, y1, x2, y2] = this.window ?? wholeWindow(this.item.picture);
    const [dx, dy] = [(x2 - x1) / 8, (y2 - y1) / 8];
    const actions = {
      "+": () => this.zoom(1.5),
      "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5),
      0: () => this.fit(),
      n: () => this.step(1),
      p: () => this.step(-1),
      ArrowLeft: () => this.pan(-dx, 0),
      ArrowRight: () => this.pan(dx, 0),
      ArrowUp: () => this.pan(0, -dy),
      ArrowDown: () => this.pan(0, dy),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }
}

/** The boxes of the detection and of the object in focus. */
function boxesInFocus(picture, focus) {
  const boxes = [];
  if (focus.detection >= 0) boxes.push(picture.detections.box[focus.detection]);
  if (focus.object >= 0) boxes.push(picture.objects.box[focus.object]);
  return boxes;
}

/** A window moved so that it lies in the picture, or, where it is larger, the picture in it. */
function windowWithin({ width, height }, [x1, y1, x2, y2]) {
  const shift = (low, high, size) => {
    const room = size - (high - low);
    return Math.min(Math.max(low, Math.min(0, room)), Math.max(0, room)) - low;
  };
  const [dx, dy] = [shift(x1, x2, width), shift(y1, y2, height)];
  return [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
}

/** A square window around boxes, `margin` times as large as they are, inside the picture as far as it can be. */
function windowAround(picture, boxes, margin) {
  const x1 = Math.min(...boxes.map((box) => box[0]));
  const y1 = Math.min(...boxes.map((box) => box[1]));
  const x2 = Math.max(...boxes.map((box) => box[2]));
  const y2 = Math.max(...boxes.map((box) => box[3]));
  const wanted = Math.max(margin * Math.max(x2 - x1, y2 - y1), 56);
  const side = Math.min(wanted, Math.max(picture.width, picture.height));
  const start = (middle, size) => {
    if (side >= size) return (size - side) / 2;
    return Math.min(Math.max(middle - side / 2, 0), size - side);
  };
  const [left, top] = [start((x1 + x2) / 2, picture.width), start((y1 + y2) / 2, picture.height)];
  return [left, top, left + side, top + side];
}
