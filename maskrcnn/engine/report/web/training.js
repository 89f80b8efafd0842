"use strict";
// Curves over the iterations: losses, figures of the evaluations, learning rate, speed.

function makeTraining(state, data) {
  const { training, evaluations } = data;
  const named = (source, test) =>
    Object.keys(source.series).filter(test).map((name) => ({ label: name, values: source.series[name] }));
  const isLoss = (name) => /loss/.test(name);
  const common = { x: "iteration", xDigits: 0 };
  const trained = [
    [{ title: "Losses", y: "loss", digits: 3 }, named(training, isLoss)],
    [{ title: "Learning rate", y: "learning rate", digits: 6 }, named(training, (name) => name === "lr")],
    [{ title: "Throughput", y: "images per second", digits: 2 }, named(training, (name) => name === "imgs_per_s")],
    [
      { title: "Time of a step", y: "seconds", digits: 3, note: "data_time is the wait for the batch." },
      named(training, (name) => ["time", "data_time"].includes(name)),
    ],
    [{ title: "Memory", y: "MiB", digits: 0, note: "The peak so far." }, named(training, (name) => name === "max_mem")],
  ].filter(([, series]) => series.length > 0);

  const charts = trained.map(([options, series]) => {
    const chart = new Chart({ ...common, ...options });
    chart.show({ xs: training.iterations, series });
    return chart.element;
  });
  charts.splice(1, 0, ...evaluationCharts(state, evaluations, common, named));
  const nothing = make("p", { class: "note" }, "There is no record of a training in this folder.");
  return makeSection("training", "Training", charts.length ? make("div", { class: "charts" }, ...charts) : nothing);
}

/** A figure's values over the evaluations, or null. Of several test sets, names begin with the set's. */
function evaluatedSeries({ series }, set, figure) {
  const values = series[`${set?.name}/${figure}`] ?? series[figure];
  return values?.map((value) => (exists(value) && value >= 0 ? value : null)) ?? null; // -1: no such object
}

/** Figures of the chosen set and kind with the chosen category's, and losses on the validation data. */
function evaluationCharts(state, evaluations, common, named) {
  const losses = named(evaluations, (name) => name.startsWith("val/"));
  const figures = new Chart({ ...common, title: "AP over the training", y: "AP, 0 to 100", digits: 1 });
  const draw = () => {
    const { set, kind = "segm", category = -1 } = state?.values ?? {};
    const names = category < 0 ? HEADLINE : [...HEADLINE, `AP-${set.classes[category]}`];
    const series = names.map((name) => `${kind}/${name}`)
      .map((label) => ({ label, values: evaluatedSeries(evaluations, set, label) }))
      .filter(({ values }) => values?.some(exists));
    figures.show({ xs: evaluations.iterations, series });
  };
  state?.on(["set", "kind", "category"], draw);
  draw();
  const charts = evaluations.iterations.length ? [figures.element] : [];
  if (losses.length === 0) return charts;
  const validation = new Chart({ ...common, title: "Losses on the test data", y: "loss" });
  validation.show({ xs: evaluations.iterations, series: losses });
  return [...charts, validation.element];
}
