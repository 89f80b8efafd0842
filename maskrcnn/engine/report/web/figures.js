"use strict";
// Tables of figures: by category, by size of the objects.

function makeFigures(state) {
  const byClass = make("div");
  const bySize = make("div");

  function draw() {
    const { set, kind } = state.values;
    byClass.replaceChildren(make("h3", {}, `By category, ${KIND_NAMES[kind] ?? kind}`), categoryTable(state));
    bySize.replaceChildren(make("h3", {}, "By size"), sizeTable(set));
  }

  state.on(["set", "kind"], draw);
  draw();
  return makeSection(
    "tables",
    "Tables",
    make(
      "p",
      { class: "note" },
      "COCO's figures, 0 to 100; – where there is no object of this kind. A click on a column's head sorts.",
    ),
    byClass,
    bySize,
  );
}

function categoryTable(state) {
  const { set, kind } = state.values;
  const { by_class: { columns, rows }, best_f1: best } = state.figures;
  const metric = (name) => ({ name, show: figure, bar: 100 });
  const heads = [
    { name: "category", text: true, pick: (row) => state.set({ category: row.label }) },
    { name: "objects" },
    ...columns.map(metric),
    { name: "best F1", digits: 2, title: "The highest F1 at IoU 0.5" },
    { name: "at score", digits: 2, title: "The score from which on F1 is highest" },
  ];
  const cells = (label) => {
    const top = best.by_class[label];
    return [set.classes[label], set.objects[label], ...rows[label], top?.f1 ?? null, top?.threshold ?? null];
  };
  return makeTable({
    file: `${set.name}-categories-${kind}`,
    columns: heads,
    rows: set.classes.map((_, label) => ({ label, cells: cells(label) })),
    sort: [2, -1],
  });
}

/** COCO's sizes, by the area in pixels. */
function sizeTable(set) {
  const sizes = [["all", "AP", null], ["small, < 32²", "APs", "ARs"], ["medium", "APm", "ARm"], [
    "large, > 96²",
    "APl",
    "ARl",
  ]];
  const kinds = Object.entries(set.kinds);
  const columns = [
    { name: "area in pixels", text: true },
    ...kinds.flatMap(([kind]) =>
      ["AP", "AR"].map((name) => ({ name: `${name} ${KIND_NAMES[kind] ?? kind}`, show: figure, bar: 100 }))
    ),
  ];
  const rows = sizes.map(([name, ap, ar]) => ({
    cells: [name, ...kinds.flatMap(([, { figures }]) => [figures[ap], figures[ar ?? mostRecall(figures)]])],
  }));
  return makeTable({ file: `${set.name}-sizes`, columns, rows });
}

/** The recall over the most detections: of AR@1, AR@10, AR@100 the last. */
function mostRecall(figures) {
  const limits = Object.keys(figures).filter((name) => name.startsWith("AR@")).map((name) => Number(name.slice(3)));
  return `AR@${Math.max(...limits)}`;
}
