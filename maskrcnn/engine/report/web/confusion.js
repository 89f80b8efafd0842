"use strict";
// What was taken for what, at the chosen score: a table with shaded cells, each row in per cent of its objects.

const MOST = 20; // categories shown, those with most confusion
const OTHERS = "(others)";
const MISSED = "(missed)";
const NOTHING = "(nothing)";

function makeConfusion(state) {
  const box = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion" });
  const line = make("p", { class: "note", id: "confusion-line", "aria-live": "polite" });
  const hint =
    "Rows: what is there; columns: what was detected, matched at IoU 0.5 whatever the category; per cent of the row.";
  const title = make("h3", {}, "Confusion");
  const element = make(
    "div",
    { class: "chart" },
    title,
    make("p", { class: "note" }, hint),
    make("div", {}, box, line),
  );
  let shown = []; // the same while the slider moves

  function choose() {
    const { set, category } = state.values;
    shown = mostConfused(state.figures, set.classes.length);
    if (category >= 0 && !shown.includes(category)) shown = [category, ...shown.slice(0, MOST - 1)];
    element.classList.toggle("wide", shown.length > 8);
    draw();
  }

  function draw() {
    const rows = confusionRows(state.values.set, confusionAt(state.figures, state.values.bin), shown);
    const heads = rows[0].cells.map(([name]) => make("th", { scope: "col", title: name }, make("span", {}, name)));
    const table = make(
      "table",
      { class: "confusion" },
      make("caption", { class: "visually-hidden" }, hint),
      make("thead", {}, make("tr", {}, make("td"), ...heads)),
      make("tbody", {}, ...rows.map(confusionRow)),
    );
    table.querySelector("td[data-said]")?.setAttribute("tabindex", 0);
    box.replaceChildren(table);
    line.textContent = "";
  }

  const tell = (event) => {
    const cell = event.target.closest("td[data-said]");
    if (cell) line.textContent = cell.dataset.said;
  };
  box.addEventListener("mouseover", tell);
  box.addEventListener("focusin", tell);
  box.addEventListener("keydown", (event) => moveAmongCells(event, box));
  state.on(["set", "kind", "category"], choose);
  state.on(["bin"], draw);
  choose();
  return element;
}

/** The labels that are most often taken for another, or are what others are taken for; over all scores, in order. */
function mostConfused(figures, numClasses) {
  const taken = new Array(numClasses).fill(0);
  for (const [object, detected, pairs] of figures.confusion) {
    if (object === detected || object === numClasses || detected === numClasses) continue;
    const count = sum(pairs.filter((_, i) => i % 2));
    taken[object] += count;
    taken[detected] += count;
  }
  const labels = taken.map((_, label) => label);
  return labels.sort((a, b) => taken[b] - taken[a]).slice(0, MOST).sort((a, b) => a - b);
}

/** One row for each label in `shown`, then one for no object: {name, total, cells: [[detected as, count], ...]}. */
function confusionRows(set, counts, shown) {
  const nothing = set.classes.length;
  return [...shown, nothing].map((object) => {
    const found = counts.get(object) ?? new Map();
    const all = sum([...found.values()]);
    const cells = shown.map((label) => [set.classes[label], found.get(label) ?? 0]);
    if (shown.length < nothing) cells.push([OTHERS, all - sum(cells.map(([, count]) => count))]);
    if (object === nothing) return { name: NOTHING, total: all, cells };
    cells.push([MISSED, Math.max(0, set.objects[object] - all)]);
    return { name: set.classes[object], total: set.objects[object], cells };
  });
}

function confusionRow({ name, total, cells }) {
  return make(
    "tr",
    {},
    make("th", { scope: "row", title: name }, name),
    ...cells.map(([detected, count]) => confusionCell(count, total, sayPair(name, detected, count, total))),
  );
}

function confusionCell(count, total, said) {
  const share = total ? count / total : 0;
  const text = count === 0 ? "" : share < 0.01 ? "<1" : (100 * share).toFixed(0);
  const cell = make("td", { tabindex: -1, title: said, "data-said": said }, text);
  if (count) cell.style.backgroundColor = `rgb(var(--shade) / ${(8 + 52 * share).toFixed(0)}%)`;
  return cell;
}

/** "3 of 12 objects of dog were detected as cat". */
function sayPair(name, detected, count, total) {
  if (name === NOTHING) return `${whole(count)} of ${plural(total, "detection")} without an object: as ${detected}`;
  const what = detected === MISSED ? "were not detected" : `were detected as ${detected}`;
  return `${whole(count)} of ${plural(total, "object")} of ${name} ${what}`;
}

/** Arrow keys move the focus within the table; one cell of it can be reached by Tab. */
function moveAmongCells(event, box) {
  const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  const cell = event.target.closest("td[data-said]");
  if (!cell || !steps[event.key]) return;
  event.preventDefault();
  const [dx, dy] = steps[event.key];
  const rows = [...box.querySelectorAll("tbody tr")];
  const next = rows[rows.indexOf(cell.parentElement) + dy]?.cells[cell.cellIndex + dx];
  if (!next?.dataset.said) return;
  cell.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
