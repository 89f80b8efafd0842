"use strict";
// Tables that sort by a click on a column's head and can be saved as CSV.

/**
 * columns: [{name, title, text, digits, show, bar, pick}]: `text` for words, `digits` for numbers (0), `show` to
 * write a value otherwise, `bar` for the value that fills the cell, `pick` for what a click does with the row, `key`
 * for what a value is sorted by.
 * rows: [{cells: [...]}]. sort: [column, 1 or -1], at first.
 */
function makeTable({ columns, rows, sort = null, file }) {
  const body = make("tbody");
  const heads = columns.map((column, i) => {
    const button = make("button", { type: "button", title: column.title, onclick: () => sortBy(i) }, column.name);
    return make("th", { scope: "col", class: column.text && "text" }, button);
  });
  let [by, direction] = sort ?? [-1, 1];

  function sortBy(i) {
    direction = i === by ? -direction : columns[i].text ? 1 : -1;
    by = i;
    draw();
  }

  function draw() {
    const key = columns[by]?.key ?? ((value) => value);
    const order = by < 0 ? rows : [...rows].sort((a, b) => compareCells(key(a.cells[by]), key(b.cells[by]), direction));
    heads.forEach((head, i) =>
      head.setAttribute("aria-sort", i !== by ? "none" : direction > 0 ? "ascending" : "descending")
    );
    body.replaceChildren(
      ...order.map((row) => make("tr", {}, ...row.cells.map((cell, i) => tableCell(columns[i], cell, row)))),
    );
  }

  draw();
  const save = make("button", {
    type: "button",
    class: "small",
    onclick: () => saveText(`${file}.csv`, asCSV(columns, rows)),
  }, "CSV");
  const table = make("table", { class: "data" }, make("thead", {}, make("tr", {}, ...heads)), body);
  return make(
    "div",
    { class: "table" },
    make("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": file }, table),
    save,
  );
}

/** What does not exist comes last, whatever the direction. */
function compareCells(a, b, direction) {
  const missing = (value) => !exists(value) || value === "" || value === -1;
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  return direction * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

function tableCell(column, value, row) {
  if (column.text) {
    const content = column.pick
      ? make("button", { type: "button", class: "link", onclick: () => column.pick(row) }, value)
      : value;
    return make("th", { scope: "row", class: "text", title: value }, content);
  }
  const text = column.show ? column.show(value) : column.digits ? fixed(value, column.digits) : whole(value);
  const cell = make("td", {}, text);
  if (column.bar && exists(value) && value > 0) cell.style.setProperty("--part", `${(100 * value) / column.bar}%`);
  if (column.bar) cell.className = "barred";
  return cell;
}

/** COCO's -1 is blank; words that a spreadsheet would take for a formula begin with an apostrophe. */
function asCSV(columns, rows) {
  const quote = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const word = (value) => quote(/^[=+@\t\r-]/.test(value) ? `'${value}` : value);
  const write = (value, column) => {
    if (typeof value === "string") return word(value);
    return exists(value) && !(value === -1 && column.show === figure) ? String(value) : "";
  };
  const lines = rows.map((row) => row.cells.map((cell, i) => write(cell, columns[i])));
  return [columns.map(({ name }) => word(name)), ...lines].map((cells) => cells.join(",")).join("\n") + "\n";
}

function saveText(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
