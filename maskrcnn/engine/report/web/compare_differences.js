"use strict";
// What was different between the runs: values of the config, versions and machines, times.

function makeDifferences(data) {
  const { runs, config, starts, timing } = data;
  const none = (text) => make("p", { class: "note" }, text);
  return makeSection(
    "differences",
    "What differs",
    make(
      "p",
      { class: "note" },
      "Of config and versions, what is equal in all runs is left out, and so is the output folder. Values like the " +
        "first run's are grey.",
    ),
    make("h3", {}, "Config"),
    config.length ? valuesTable("config", runs, config) : none("The configs are equal."),
    make("h3", {}, "Code, versions, machine"),
    starts.length ? valuesTable("starts", runs, starts) : none("No difference is known."),
    make("h3", {}, "Time"),
    timing.length ? valuesTable("timing", runs, timing) : none("There is no record of a training in these folders."),
  );
}

/** rows: [name, [a value of each run, or null]]. */
function valuesTable(id, runs, rows) {
  const head = make(
    "tr",
    {},
    make("th", { scope: "col", class: "text" }, ""),
    ...runs.map((run) => make("th", { scope: "col", class: "text" }, runName(run))),
  );
  const body = rows.map(([name, values]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", class: "text" }, make("code", {}, name)),
      ...values.map((value, i) =>
        make("td", { class: i > 0 && value === values[0] && "same" }, make("code", {}, value ?? NONE))
      ),
    )
  );
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": id },
    make("table", { class: "side-by-side data", id }, make("thead", {}, head), make("tbody", {}, ...body)),
  );
}
