"use strict";
// The head of a comparison: which runs, what was evaluated, which is best.

function makeCompareHead(state, data) {
  const facts = make("p", { class: "facts" });
  const verdict = make("p", { class: "verdict" });
  const draw = () => {
    facts.textContent = factsOf(state.values.set, data.made);
    verdict.textContent = verdictOfRuns(state);
  };
  if (state) {
    state.on(["set", "kind"], draw);
    draw();
  } else {
    facts.textContent = `made ${moment(data.made)}`;
    verdict.textContent =
      "No test set has results of two runs that can be compared; curves and configs are here all the same.";
  }
  const notes = data.not_compared.length > 0 &&
    make(
      "details",
      { open: true, id: "not-compared" },
      make("summary", {}, "Not compared"),
      make("ul", {}, ...data.not_compared.map((line) => make("li", {}, line))),
    );
  return make(
    "header",
    { class: "head", id: "top" },
    make("h1", {}, data.title),
    facts,
    runsTable(data.runs),
    verdict,
    notes,
  );
}

function runsTable(runs) {
  const heads = ["run", "evaluated", "when", "folder"].map((name) => make("th", { scope: "col", class: "text" }, name));
  const rows = runs.map((run) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", class: "text" }, runName(run)),
      make("td", {}, run.evaluated?.what ?? NONE),
      make("td", {}, run.evaluated ? moment(run.evaluated.when) : NONE),
      make("td", {}, make("code", {}, run.folder)),
    )
  );
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Runs" },
    make(
      "table",
      { class: "side-by-side", id: "runs" },
      make("thead", {}, make("tr", {}, ...heads)),
      make("tbody", {}, ...rows),
    ),
  );
}

/** Which run has the highest AP, and how far the first one is from it. */
function verdictOfRuns(state) {
  const { set, kind } = state.values;
  const all = set.members.map(({ run, set: own }) => ({ name: run.name, ap: own.kinds[kind].figures.AP }));
  const highest = Math.max(...all.map(({ ap }) => ap));
  if (!(highest >= 0)) return "";
  const best = all.filter(({ ap }) => ap === highest).map(({ name }) => name);
  const ahead = gap(highest, all[0].ap);
  const rest = best.includes(all[0].name) ? "" : `, ${signed(ahead)} to ${all[0].name}`;
  return `Highest AP of ${KIND_NAMES[kind] ?? kind}: ${best.join(" and ")}, ${figure(highest)}${rest}.`;
}
