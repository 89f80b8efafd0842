"use strict";
// Curves of all runs over each other: of the chosen category, and over the iterations.

function makeCompareCurves(state) {
  const ranges = { xRange: [0, 1], yRange: [0, 1.02] };
  const precision = new Chart({ title: "Precision over recall, IoU 0.50", x: "recall", y: "precision", ...ranges });
  const mean = new Chart({
    title: "Precision over recall, IoU 0.50:0.95",
    x: "recall",
    y: "precision",
    ...ranges,
  });
  const f1 = new Chart({
    title: "F1 over the score",
    x: "score",
    y: "F1 at or above the score",
    ...ranges,
    note: "At IoU 0.5. A click sets the score.",
    mark: (plot) => drawVertical(plot, state.values.bin / 100),
    click: (x) => state.set({ bin: Math.round(100 * Math.min(1, Math.max(0, x))) }),
  });
  const section = makeSection(
    "curves",
    "Curves",
    make("div", { class: "charts" }, precision.element, mean.element, f1.element),
  );
  const title = section.querySelector("h2");

  function draw() {
    const { set, kind, category } = state.values;
    title.textContent = curvesTitle(set, category);
    const of = (values) =>
      joinRuns(set.members.map(({ run, set: own }) => ({ run, xs: RECALLS, values: values(own.kinds[kind]) })), {
        plain: true,
      });
    precision.show(of((own) => curveOf(own.precision["0.50"] ?? [], category)));
    mean.show(of((own) => curveOf(own.precision.mean ?? [], category)));
    f1.show(of((own) => ratesByScore(set, own, category).map((at) => at.f1)));
  }

  state.on(["set", "kind", "category"], draw);
  state.on(["bin"], () => f1.redraw());
  draw();
  return section;
}

function makeCompareTraining(state, runs) {
  const chartOf = (options, name) => {
    const chart = new Chart({ x: "iteration", xDigits: 0, ...options });
    chart.show(joinRuns(runs.map((run) => ({ run, xs: run.training.iterations, values: run.training.series[name] }))));
    return chart.element;
  };
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.training.series)))];
  const has = (name) => names.includes(name);
  const charts = [
    has("total_loss") && chartOf({ title: "Total loss", y: "loss", digits: 3 }, "total_loss"),
    runs.some((run) => run.evaluations.iterations.length) && apChart(state, runs),
    has("lr") && chartOf({ title: "Learning rate", y: "learning rate", digits: 6 }, "lr"),
    has("imgs_per_s") && chartOf({ title: "Throughput", y: "images per second", digits: 2 }, "imgs_per_s"),
  ].filter(Boolean);
  const losses = names.filter((name) => /loss/.test(name) && name !== "total_loss");
  const more = losses.length > 0 &&
    make(
      "details",
      { id: "losses" },
      make("summary", {}, "Each loss"),
      make("div", { class: "charts" }, ...losses.map((name) => chartOf({ title: name, y: "loss", digits: 3 }, name))),
    );
  const nothing = make("p", { class: "note" }, "There is no record of a training in these folders.");
  return makeSection(
    "training",
    "Training",
    ...(names.length || charts.length ? [make("div", { class: "charts" }, ...charts), more] : [nothing]),
  );
}

/** AP of the chosen kind and category; a run with several test sets names the set as well. */
function apChart(state, runs) {
  const chart = new Chart({ title: "AP over the training", x: "iteration", xDigits: 0, y: "AP, 0 to 100", digits: 1 });
  const draw = () => {
    const { set, category = -1, kind = kindEvaluated(runs) } = state?.values ?? {};
    const figure = category < 0 ? `${kind}/AP` : `${kind}/AP-${set.classes[category]}`;
    chart.note.textContent = `${KIND_NAMES[kind] ?? kind}${category < 0 ? "" : `, ${set.classes[category]}`}`;
    chart.show(joinRuns(runs.map((run) => {
      const { evaluations } = run;
      return { run, xs: evaluations.iterations, values: evaluatedSeries(evaluations, set, figure) };
    })));
  };
  state?.on(["set", "kind", "category"], draw);
  draw();
  return chart.element;
}

const kindEvaluated = (runs) => (runs.some((run) => "segm/AP" in run.evaluations.series) ? "segm" : "bbox");
