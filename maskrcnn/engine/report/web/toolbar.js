"use strict";
// The controls: data set, masks or boxes, category, and the one score for the whole page, with its numbers.

/** `numbers` is what the score changes; `best`, if given, leads to a score. */
function makeToolbar(state, sets, numbers = makeRates(state), best = makeBest(state)) {
  const selectors = make("div", { class: "selectors" });
  const build = () => {
    const { set, kind, category } = state.values;
    const focused = document.activeElement?.id;
    const keepKind = (chosen) => (chosen.kinds[state.values.kind] ? state.values.kind : undefined);
    const kinds = Object.keys(set.kinds).map((name) => [name, KIND_NAMES[name] ?? name]);
    const categories = [[-1, "all categories"], ...sortedNames(set.classes)];
    selectors.replaceChildren(...[
      sets.length > 1 &&
      makeSelect(
        "data set",
        "set",
        sets.map((s, i) => [i, s.name]),
        sets.indexOf(set),
        (i) => state.set(valuesFor(sets[i], keepKind(sets[i]))),
      ),
      kinds.length > 1 &&
      makeSelect("evaluated", "kind", kinds, kind, (name) => state.set({ kind: name, layers: layersFor(set, name) })),
      set.classes.length > 1 &&
      makeSelect("category", "category", categories, category, (i) => state.set({ category: Number(i) })),
      best,
    ].filter(Boolean));
    if (focused) selectors.querySelector(`#${focused}`)?.focus();
  };
  const update = () => {
    for (const name of ["kind", "category"]) {
      const select = selectors.querySelector(`#${name}`);
      if (select) select.value = state.values[name];
    }
  };
  state.on(["set"], build);
  state.on(["kind", "category"], update);
  build();
  return make(
    "div",
    { class: "toolbar", role: "region", "aria-label": "What is shown" },
    selectors,
    makeScoreField(state, "score"),
    numbers,
  );
}

/** The bar that stays in sight. What a link leads to comes to rest below it. */
function makeBar(...children) {
  const bar = make("div", { class: "bar-top" }, ...children);
  const root = document.documentElement;
  new ResizeObserver(() => (root.style.scrollPaddingTop = `${bar.offsetHeight}px`)).observe(bar);
  return bar;
}

/** Detections, precision, recall and F1 at the score. */
function makeRates(state) {
  const numbers = {};
  for (const name of ["detections", "precision", "recall", "f1"]) {
    numbers[name] = make("output", { id: name, for: "score" });
  }
  const draw = () => {
    const { set, category, bin } = state.values;
    const at = ratesByScore(set, state.figures, category)[bin];
    numbers.detections.textContent = whole(at.detections);
    for (const name of ["precision", "recall", "f1"]) numbers[name].textContent = fixed(at[name]);
  };
  state.on(["set", "kind", "category", "bin"], draw);
  draw();
  const term = (text, output) => make("span", { class: "number" }, text, output);
  return make(
    "div",
    { class: "numbers" },
    term("detections", numbers.detections),
    term("precision", numbers.precision),
    term("recall", numbers.recall),
    term("F1", numbers.f1),
  );
}

function makeBest(state) {
  const best = make("button", {
    type: "button",
    id: "best",
    title: "Go to the score where F1 is highest",
    onclick: () => state.set({ bin: bestBin(state.values.set, state.figures, state.values.category) }),
  });
  const draw = () => {
    const { set, category, bin } = state.values;
    const top = bestBin(set, state.figures, category);
    best.hidden = top === null;
    if (!best.hidden) best.textContent = `best F1 at ${fixed(top / 100)}`;
    best.disabled = top === bin;
  };
  state.on(["set", "kind", "category", "bin"], draw);
  draw();
  return best;
}

const sortedNames = (classes) => classes.map((name, i) => [i, name]).sort((a, b) => a[1].localeCompare(b[1]));

/** The slider of the score. All of its kind show the same value. */
function makeScoreField(state, id) {
  const value = make("output", { id: `${id}-value`, for: id });
  const input = make("input", {
    id,
    type: "range",
    min: 0,
    max: 1,
    step: 0.01,
    title: "Detections with a lower score are left out",
    oninput: () => state.set({ bin: Math.round(100 * input.value) }),
  });
  const draw = () => {
    input.value = state.values.bin / 100;
    value.textContent = fixed(state.values.bin / 100);
  };
  state.on(["bin"], draw);
  draw();
  return make("label", { class: "field score" }, make("span", {}, "score ≥"), input, value);
}

/** Checkboxes for what is drawn on pictures, and for how it is coloured. */
function makeLayers(state) {
  const element = make("div", { class: "layers", role: "group", "aria-label": "Drawn on pictures" });
  const draw = () => {
    const { layers, colours } = state.values;
    const boxes = Object.keys(layers).map((name) => {
      const box = makeCheckbox(
        name,
        layers[name],
        (on) => state.set({ layers: { ...state.values.layers, [name]: on } }),
      );
      box.dataset.layer = name;
      return box;
    });
    const several = state.values.set.classes.length > 1;
    const colour = several &&
      makeCheckbox("colour by category", colours === "class", (on) => state.set({ colours: on ? "class" : "outcome" }));
    const focused = [...element.children].findIndex((child) => child.contains(document.activeElement));
    element.replaceChildren(...boxes, ...(colour ? [colour] : []));
    if (focused >= 0) element.children[focused].querySelector("input").focus();
  };
  state.on(["set", "layers", "colours"], draw);
  draw();
  return element;
}
