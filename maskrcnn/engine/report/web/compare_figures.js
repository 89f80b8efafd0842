"use strict";
// Figures of each run with the differences to the first one: overall, at the score, by category, by type of error.

function makeCompareFigures(state) {
  const overall = make("div");
  const rates = make("div");
  const byClass = make("div", { id: "by-class" });
  let column = 0; // of the figures by category

  function drawClasses() {
    const { set, kind } = state.values;
    if (set.classes.length < 2) return byClass.replaceChildren();
    const names = state.figures.by_class.columns.map((name, i) => [i, name]);
    const select = makeSelect("figure", "class-figure", names, column, (i) => {
      column = Number(i);
      drawClasses();
    });
    return byClass.replaceChildren(
      make("h3", {}, `By category, ${KIND_NAMES[kind] ?? kind}`),
      select,
      comparedClasses(state, column),
    );
  }

  const drawOverall = () =>
    overall.replaceChildren(...Object.keys(state.values.set.kinds).map((kind) => figuresTable(state.values.set, kind)));
  const drawRates = () => rates.replaceChildren(ratesTable(state));
  state.on(["set"], drawOverall);
  state.on(["set", "kind"], drawClasses);
  state.on(["set", "kind", "category", "bin"], drawRates);
  drawOverall();
  drawRates();
  drawClasses();
  return makeSection(
    "figures",
    "Figures",
    make(
      "p",
      { class: "note" },
      "COCO's figures, 0 to 100, with the difference to the first run below; the best of each column is bold and " +
        "underlined. F1 is at IoU 0.5 and at the score where it is highest; the lowest calibration error is best.",
    ),
    overall,
    rates,
    byClass,
  );
}

/** columns: {name, title, of: (figures of a kind) => value, digits, best: Math.max, Math.min or nothing}. */
function figuresTable(set, kind) {
  const names = new Set(set.members.flatMap(({ set: own }) => Object.keys(own.kinds[kind].figures)));
  const columns = [
    ...[...names].map((name) => ({ name, of: (own) => own.figures[name], digits: 1, best: Math.max })),
    { name: "best F1", of: (own) => own.best_f1.all?.f1, digits: 2, best: Math.max },
    { name: "at score", of: (own) => own.best_f1.all?.threshold, digits: 2 },
    {
      name: "cal. error",
      title: "Expected calibration error",
      of: (own) => own.calibration.error.all,
      digits: 3,
      best: Math.min,
    },
  ];
  const rows = set.members.map(({ run, set: own }) => ({
    run,
    values: columns.map((column) => column.of(own.kinds[kind])),
  }));
  return runsByColumns(KIND_NAMES[kind] ?? kind, columns, rows, {
    id: `figures-${kind}`,
    file: `${set.name}-figures-${kind}`,
  });
}

function ratesTable(state) {
  const { kind, category, bin, set } = state.values;
  const columns = [["detections", 0], ["precision", 2], ["recall", 2], ["f1", 2]].map(([name, digits]) => (
    { name: name === "f1" ? "F1" : name, of: (at) => at[name], digits, best: name === "detections" ? null : Math.max }
  ));
  const rows = set.members.map(({ run, set: own }) => {
    const at = ratesByScore(set, own.kinds[kind], category)[bin];
    return { run, values: columns.map((column) => column.of(at)) };
  });
  const which = category < 0 ? "" : `, ${set.classes[category]}`;
  const score = fixed(bin / 100);
  return runsByColumns(`${KIND_NAMES[kind] ?? kind} at score ${score}${which}`, columns, rows, {
    id: "rates",
    file: `${set.name}-rates-${kind}-${score}`,
  });
}

function runsByColumns(title, columns, rows, { id, file }) {
  const present = (value) => exists(value) && value >= 0;
  const heads = columns.map(({ name, title: hint }) => make("th", { scope: "col", title: hint }, name));
  const text = (value, { digits }) => (present(value) ? (digits ? fixed(value, digits) : whole(value)) : NONE);
  const best = columns.map((column, i) => {
    const all = rows.map(({ values }) => values[i]).filter(present);
    const found = column.best ? text(column.best(...all), column) : null;
    return all.some((value) => text(value, column) !== found) ? found : null; // where all read the same, none is best
  });
  const cell = (values, column, i, first) => {
    const shown = text(values[i], column);
    const value = shown === best[i] && present(values[i])
      ? make("strong", { class: "best", title: "best" }, shown)
      : shown;
    const change = first
      ? null
      : make("span", { class: "change" }, signed(gap(values[i], rows[0].values[i]), column.digits));
    return make("td", {}, value, change);
  };
  const body = rows.map(({ run, values }, r) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", class: "text" }, runName(run)),
      ...columns.map((column, i) => cell(values, column, i, r === 0)),
    )
  );
  const csv = () =>
    saveText(
      `${file}.csv`,
      asCSV(
        [{ name: "run" }, ...columns],
        rows.map(({ run, values }) => ({ cells: [run.name, ...values.map((v) => (present(v) ? v : null))] })),
      ),
    );
  return make(
    "div",
    { class: "table" },
    make("h3", {}, title),
    make(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
      make(
        "table",
        { class: "data compared", id },
        make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "text" }, "run"), ...heads)),
        make("tbody", {}, ...body),
      ),
    ),
    make("button", { type: "button", class: "small", onclick: csv }, "CSV"),
  );
}

/** The largest difference first. `column`: which of the figures by category. */
function comparedClasses(state, column) {
  const { set, kind } = state.values;
  const members = set.members.map(({ run, set: own }) => ({ run, rows: own.kinds[kind].by_class.rows }));
  const [first, ...others] = members;
  const columns = [
    { name: "category", text: true, pick: (row) => state.set({ category: row.label }) },
    { name: "objects" },
    ...members.map(({ run }) => ({ name: run.name, show: figure, bar: 100 })),
    ...others.map(({ run }) => ({
      name: `Δ ${run.name}`,
      title: `${run.name} minus ${first.run.name}; sorts by size, whatever the sign`,
      show: (value) => signed(value),
      key: (value) => (exists(value) ? Math.abs(value) : value),
    })),
  ];
  const rows = set.classes.map((name, label) => {
    const values = members.map((member) => member.rows[label][column]);
    return {
      label,
      cells: [name, set.objects[label], ...values, ...values.slice(1).map((value) => gap(value, values[0]))],
    };
  });
  const file = `${set.name}-categories-${kind}-${state.figures.by_class.columns[column]}`;
  return makeTable({ file, columns, rows, sort: [2 + members.length, -1] });
}

function makeCompareErrors(state) {
  const box = make("div");
  const draw = () => {
    const { set, kind } = state.values;
    const errors = set.members.map(({ run, set: own }) => ({ run, ...own.kinds[kind].errors }));
    const gainsOf = ({ types, gain_false, gain_missed }) => [...types.map(({ gain }) => gain), gain_false, gain_missed];
    const longest = Math.max(1e-9, ...errors.flatMap(gainsOf).filter(exists));
    const columns = [
      { name: "error", text: true },
      ...errors.map(({ run }) => ({
        name: `${run.name}, points`,
        title: "Points of AP50 that fixing all of these would give",
        show: (value) => signed(value),
        bar: longest,
      })),
      ...errors.map(({ run }) => ({ name: `${run.name}, count` })),
    ];
    const rows = errors[0].types.map(({ name }, i) => ({
      cells: [name, ...errors.map(({ types }) => types[i].gain), ...errors.map(({ types }) => types[i].count)],
    }));
    const total = (own, of) => sum(own.types.filter(of).map(({ count }) => count));
    const isMissed = ({ name }) => name === "missed";
    rows.push({
      cells: [
        "all false detections",
        ...errors.map(({ gain_false }) => gain_false),
        ...errors.map((own) => total(own, (type) => !isMissed(type))),
      ],
    });
    rows.push({
      cells: ["all objects not found", ...errors.map(({ gain_missed }) => gain_missed), ...errors.map(() => null)],
    });
    box.replaceChildren(makeTable({ file: `${set.name}-errors-${kind}`, columns, rows }));
  };
  state.on(["set", "kind"], draw);
  draw();
  return makeSection(
    "errors",
    "Errors",
    make("p", { class: "note" }, AFTER_TIDE),
    box,
  );
}
