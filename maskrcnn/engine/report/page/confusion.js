"use strict";
// What was taken for what, at the chosen score: a table with shaded cells, each row a share of its objects.

const MOST = 20; // categories shown, those with most confusion

function makeConfusion(state) {
  const box = make("div", { class: "scroll" });
  const line = make("p", { class: "note", id: "confusion-line", "aria-live": "polite" });
  const hint = "Rows: what is there; columns: what was detected, matched at IoU 0.5 whatever the category; per cent of the row.";
  const element = make("div", { class: "chart" }, make("h3", {}, "Confusion"), make("p", { class: "note" }, hint), make("div", {}, box, line));
  let shown = [];

  /** The categories stay the same while the slider moves. */
  function choose() {
    const { set, category } = state.values;
    const all = set.classes.map((_, i) => i);
    element.classList.toggle("wide", all.length > 8);
    if (all.length <= MOST) shown = all;
    else shown = all.sort((a, b) => confusionOf(b) - confusionOf(a)).slice(0, MOST).sort((a, b) => a - b);
    if (category >= 0 && !shown.includes(category)) shown = [category, ...shown.slice(0, MOST - 1)];
    draw();
  }

  const confusionOf = (label) => {
    const nothing = state.values.set.classes.length;
    const pairs = state.figures.confusion.filter(([o, d]) => o !== d && o < nothing && d < nothing && (o === label || d === label));
    return sum(pairs.map(([, , bins]) => sum(bins.filter((_, i) => i % 2))));
  };

  function draw() {
    const { set, bin } = state.values;
    const nothing = set.classes.length;
    const counts = confusionAt(state.figures, bin);
    const others = shown.length < nothing;
    const columns = [...shown, ...(others ? ["others"] : []), "missed"];
    const labelOf = (column) => (typeof column === "number" ? set.classes[column] : column === "missed" ? "(missed)" : "(others)");
    const head = make("tr", {}, make("td"), ...columns.map((column) => make(
      "th", { scope: "col", title: labelOf(column), class: typeof column !== "number" && "nothing" }, make("span", {}, labelOf(column)),
    )));
    const rows = [...shown, nothing].map((object) => {
      const row = counts.get(object) ?? new Map();
      const total = object === nothing ? sum([...row.values()]) : set.objects[object];
      const known = sum(shown.map((label) => row.get(label) ?? 0));
      const matched = sum([...row.values()]);
      const name = object === nothing ? "(nothing)" : set.classes[object];
      const cells = columns.map((column) => {
        if (column === "missed" && object === nothing) return make("td");
        const count = column === "missed" ? Math.max(0, total - matched) : column === "others" ? matched - known : (row.get(column) ?? 0);
        return confusionCell(count, total, sayPair(name, labelOf(column), count, total, object === nothing, column), object === column);
      });
      return make("tr", {}, make("th", { scope: "row", title: name, class: object === nothing && "nothing" }, name), ...cells);
    });
    const caption = make("caption", { class: "visually-hidden" }, hint);
    box.replaceChildren(make("table", { class: "confusion" }, caption, make("thead", {}, head), make("tbody", {}, ...rows)));
    box.querySelector("tbody td[tabindex]")?.setAttribute("tabindex", "0");
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

function confusionCell(count, total, said, diagonal) {
  const share = total ? count / total : 0;
  const percent = 100 * share;
  const text = count === 0 ? "" : percent < 1 ? "<1" : percent.toFixed(0);
  const cell = make("td", { tabindex: -1, title: said, "data-said": said, class: diagonal && "diagonal" }, text);
  if (count) cell.style.backgroundColor = `rgb(var(--shade) / ${(8 + 52 * share).toFixed(0)}%)`;
  return cell;
}

function sayPair(object, detected, count, total, nothing, column) {
  if (nothing) return `${whole(count)} of ${plural(total, "detection")} without an object: as ${detected}`;
  const did = column === "missed" ? "were not detected" : `were detected as ${detected}`;
  return `${whole(count)} of ${plural(total, "object")} of ${object} ${did}`;
}

/** Arrow keys move the focus within the table; one cell of it can be reached by Tab. */
function moveAmongCells(event, box) {
  const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [0, 0];
  const cell = event.target.closest("td[tabindex]");
  if (!cell || (dx === 0 && dy === 0)) return;
  event.preventDefault();
  const rows = [...box.querySelectorAll("tbody tr")];
  const next = rows[rows.indexOf(cell.parentElement) + dy]?.cells[cell.cellIndex + dx];
  if (!next?.hasAttribute("tabindex") || next.tagName !== "TD") return;
  cell.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
