"use strict";
// Errors by type: what fixing each would give, and examples of it.

const AFTER_TIDE =
  "What keeps AP50 down, after TIDE (Bolya et al. 2020): points of AP50 that fixing all errors of one type would " +
  "give, and how many there are, over all scores.";

function makeErrors(state, viewer) {
  const lazy = new Lazy();
  const bars = make("div", { class: "bars", role: "group", "aria-label": "Error types" });
  const ifs = make("p", { class: "note" });
  const title = make("h3", { id: "examples-title" });
  const examples = make("div", { class: "examples", id: "examples" });
  const table = make("div");
  let chosen = null;

  const typeOf = (name) => state.figures.errors.types.find((type) => type.name === name);
  const gainOf = (type) => type.gain ?? 0;
  const countOf = (type, category) => (category < 0 ? type.count : type.by_class[category]);

  function drawBars() {
    const { errors } = state.figures;
    const { category, set } = state.values;
    const longest = Math.max(1e-9, ...errors.types.map(gainOf));
    bars.replaceChildren(...errors.types.map((type) => {
      const bar = make("span", { class: "bar" }, make("span", { class: "fill" }));
      bar.firstChild.style.width = `${(100 * Math.max(0, gainOf(type))) / longest}%`;
      return make(
        "button",
        {
          type: "button",
          class: "error-type",
          "data-error": type.name,
          "aria-pressed": String(type.name === chosen),
          onclick: () => choose(type.name),
        },
        make("span", { class: "name" }, type.name),
        bar,
        make("span", { class: "gain" }, signed(type.gain)),
        make("span", { class: "count" }, `${whole(countOf(type, category))} ×`),
        make("span", { class: "meaning" }, ERRORS[type.name] ?? ""),
      );
    }));
    const where = category < 0 ? "" : ` Counts are of ${set.classes[category]} alone; points are of all categories.`;
    ifs.hidden = !exists(errors.ap50);
    ifs.textContent =
      `Counted here, AP50 is ${figure(errors.ap50)}. It would gain ${
        fixed(errors.gain_false, 1)
      } points without any false detection, ` +
      `${fixed(errors.gain_missed, 1)} if every object were found.${where}`;
  }

  function drawExamples() {
    const { set, kind, category } = state.values;
    lazy.clear();
    const type = typeOf(chosen);
    title.textContent = type ? `Examples of “${type.name}”` : "";
    if (!type) return examples.replaceChildren();
    const side = type.name === "missed" ? "objects" : "detections";
    const pairs = type.examples.filter(([p, row]) => category < 0 || set.pictures[p][side].label[row] === category);
    const items = pairs.map(([p, row]) => exampleItem(state, set.pictures[p], type.name, row, kind));
    items.forEach((item) => imageOf(item.picture)); // loaded by the time of a print, which waits for nothing
    examples.replaceChildren(...items.map((item, i) => exampleCard(state, item, lazy, () => viewer.open(items, i))));
    if (items.length === 0) {
      examples.append(
        make(
          "p",
          { class: "note" },
          countOf(type, category) ? "No example of this is among the pictures of this page." : "There is none.",
        ),
      );
    }
    return null;
  }

  function drawTable() {
    const { set, kind } = state.values;
    const { types } = state.figures.errors;
    if (set.classes.length < 2) return table.replaceChildren();
    const columns = [
      { name: "category", text: true, pick: (row) => state.set({ category: row.label }) },
      { name: "objects" },
      ...types.map((type) => ({ name: type.name, title: ERRORS[type.name] })),
      { name: "errors", title: "All types together" },
    ];
    const rows = set.classes.map((name, label) => {
      const counts = types.map((type) => type.by_class[label]);
      return { label, cells: [name, set.objects[label], ...counts, sum(counts)] };
    });
    return table.replaceChildren(
      make("h3", {}, "By category"),
      makeTable({ file: `${set.name}-errors-${kind}`, columns, rows, sort: [columns.length - 1, -1] }),
    );
  }

  function choose(name) {
    chosen = name;
    bars.querySelectorAll("button").forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.error === name))
    );
    drawExamples();
  }

  function drawAll() {
    const present = state.figures.errors.types.filter((type) => type.count > 0);
    chosen = present.sort((a, b) => gainOf(b) - gainOf(a))[0]?.name ?? state.figures.errors.types[0]?.name ?? null;
    drawBars();
    drawExamples();
    drawTable();
  }

  state.on(["set", "kind"], drawAll);
  state.on(["category"], () => (drawBars(), drawExamples()));
  state.on(["bin", "layers", "colours"], () => lazy.redraw());
  addEventListener("beforeprint", () => lazy.drawAll());
  drawAll();
  return makeSection(
    "errors",
    "Errors",
    make("p", { class: "note" }, AFTER_TIDE),
    bars,
    ifs,
    title,
    examples,
    table,
  );
}

/** An example for the viewer: the detection or the missed object in focus, with its counterpart. */
function exampleItem(state, picture, error, row, kind) {
  const { classes } = state.values.set;
  if (error === "missed") {
    const text = () => `missed: ${describeObject(picture, row, kind, classes, state.values.bin)}`;
    return { picture, focus: { detection: -1, object: row }, text };
  }
  const text = () => {
    const below = isShown(picture, row, state.values.bin) ? "" : " (below the chosen score)";
    return `${error}: ${describeDetection(picture, row, kind, classes)}${below}`;
  };
  return { picture, focus: { detection: row, object: picture.detections.about[kind][row] }, text };
}

function exampleCard(state, item, lazy, open) {
  const { picture, focus } = item;
  const pair = ["objects", "detections"].map((side) => [side, make("canvas", { "aria-hidden": "true" })]);
  const line = make("span", { class: "line" });
  const card = make(
    "button",
    { type: "button", class: "example", onclick: open },
    make("span", { class: "pair" }, ...pair.map(([, canvas]) => canvas)),
    line,
  );
  lazy.add(card, () => {
    line.textContent = item.text();
    const look = lookOf(state, picture, { focus, window: windowAround(picture, boxesInFocus(picture, focus), 2.2) });
    pair.forEach(([side, canvas]) => drawPicture(canvas, picture, side, look));
  });
  return card;
}
