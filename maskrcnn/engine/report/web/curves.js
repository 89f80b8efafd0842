"use strict";
// Curves of the chosen category, or of all: precision and recall, their course over the score, calibration, confusion.

const RECALLS = Array.from({ length: 101 }, (_, i) => i / 100);

function makeCurves(state) {
  const now = () => ratesByScore(state.values.set, state.figures, state.values.category)[state.values.bin];
  const precision = new Chart({
    title: "Precision over recall",
    x: "recall",
    y: "precision",
    xRange: [0, 1],
    yRange: [0, 1.02],
    note: "The ring is the chosen score. It lies on the dashed line, which is counted over all detections.",
    mark: (plot) => {
      const { precision: p, recall: r } = now();
      if (exists(p) && exists(r)) drawRing(plot, r, p);
    },
  });
  const confidence = new Chart({
    title: "Over the score",
    x: "score",
    y: "at or above the score",
    xRange: [0, 1],
    yRange: [0, 1.02],
    note: "At IoU 0.5. A click sets the score.",
    mark: (plot) => drawVertical(plot, state.values.bin / 100),
    click: (x) => state.set({ bin: Math.round(100 * Math.min(1, Math.max(0, x))) }),
  });
  const calibration = new Chart({
    title: "Calibration",
    x: "score",
    y: "share that is right",
    xRange: [0, 1],
    yRange: [0, 1.02],
  });

  function draw() {
    const { set, category } = state.values;
    title.textContent = curvesTitle(set, category);
    precision.show(precisionContent(state));
    confidence.show(confidenceContent(state));
    calibration.show(calibrationContent(state));
    const { error } = state.figures.calibration;
    const value = category < 0 ? error.all : error.by_class[category];
    calibration.note.textContent =
      `Bars as high as the dots: a score is the chance to be right. Expected calibration error ${fixed(value, 3)}.`;
  }

  const section = makeSection(
    "curves",
    "Curves",
    make("div", { class: "charts" }, precision.element, confidence.element, calibration.element, makeConfusion(state)),
  );
  const title = section.querySelector("h2");
  state.on(["set", "kind", "category"], draw);
  state.on(["bin"], () => (precision.redraw(), confidence.redraw()));
  draw();
  return section;
}

function curvesTitle({ classes }, category) {
  const all = classes.length > 1 ? "all categories" : classes[0] ?? "";
  return `Curves: ${category < 0 ? all : classes[category]}`;
}

/** The mean over the categories that have a curve, or one category's. */
function curveOf(rows, category) {
  const curves = (category < 0 ? rows : [rows[category]]).filter(exists);
  return curves.length ? RECALLS.map((_, i) => sum(curves.map((curve) => curve[i])) / curves.length) : null;
}

function precisionContent(state) {
  const { category, set } = state.values;
  const { precision } = state.figures;
  const names = [["IoU 0.50", "0.50"], ["IoU 0.75", "0.75"], ["mean of 0.50 to 0.95", "mean"]];
  const curves = names.map(([label, key]) => ({ label, values: curveOf(precision[key] ?? [], category), plain: true }))
    .filter((one) => one.values);
  if (curves.length === 0) return { xs: [], series: [] };
  const counted = new Map(); // of one recall, the highest precision
  for (const { precision: p, recall: r } of ratesByScore(set, state.figures, category)) {
    if (exists(p) && exists(r)) counted.set(r, Math.max(p, counted.get(r) ?? 0));
  }
  const points = [...counted].sort((a, b) => a[0] - b[0]);
  const [xs, ...values] = uPlot.join([
    [RECALLS, ...curves.map((one) => one.values)],
    [points.map(([r]) => r), points.map(([, p]) => p)],
  ]);
  const line = { label: "counted, IoU 0.50", dash: [5, 4], colour: 7, plain: true };
  return { xs, series: [...curves, line].map((one, i) => ({ ...one, values: values[i] })) };
}

function confidenceContent(state) {
  const rows = ratesByScore(state.values.set, state.figures, state.values.category);
  const series = ["precision", "recall", "f1"].map((name) => ({
    label: name === "f1" ? "F1" : name,
    values: rows.map((row) => row[name]),
    plain: true,
  }));
  return { xs: RECALLS, series };
}

function calibrationContent(state) {
  const { category } = state.values;
  const { count, true: right, score } = state.figures.calibration;
  const [n, t, s] = [count, right, score].map((rows) => (rows.length ? pooled(rows, category) : []));
  if (sum(n) === 0) return { xs: [], series: [] };
  const share = (values) => values.map((value, i) => (n[i] ? value / n[i] : null));
  return {
    xs: n.map((_, i) => (i + 0.5) / n.length),
    series: [{ label: "right", values: share(t), bars: true }, { label: "mean score", values: share(s), colour: 1 }],
  };
}
