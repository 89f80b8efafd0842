"use strict";
// The comparison of several runs: reads the data and makes the sections in their order.

function openComparison(data) {
  const runs = data.runs.map((run, index) => ({ ...run, index }));
  const sets = data.sets.map((set) => expandSet(set, runs));
  const state = sets.length > 0 ? new State(valuesFor(sets[0])) : null;
  const sections = [
    ...(state
      ? [makeCompareFigures(state), makeCompareErrors(state), makeComparePictures(state), makeCompareCurves(state)]
      : []),
    makeCompareTraining(state, runs),
    makeDifferences({ ...data, runs }),
  ];
  const bar = makeBar(makeNavigation(sections), state && makeToolbar(state, sets, makeRunsF1(state), null));
  document.body.prepend(makeCompareHead(state, { ...data, runs }), bar, make("main", {}, ...sections));
}

/** F1 of each run at the score; a click leads to the score of its best one. */
function makeRunsF1(state) {
  const box = make("div", { class: "numbers", id: "runs-f1" });
  const draw = () => {
    const { set, kind, category, bin } = state.values;
    const focused = [...box.children].indexOf(document.activeElement);
    box.replaceChildren(...set.members.map(({ run, set: own }) => {
      const best = bestBin(set, own.kinds[kind], category);
      const at = ratesByScore(set, own.kinds[kind], category)[bin];
      const title = exists(best) ? `Go to the score where F1 of ${run.name} is highest, ${fixed(best / 100)}` : "";
      return make(
        "button",
        { type: "button", disabled: !exists(best), title, onclick: () => state.set({ bin: best }) },
        runName(run),
        " F1 ",
        make("output", { for: "score" }, fixed(at.f1)),
      );
    }));
    if (focused >= 0) box.children[focused]?.focus();
  };
  state.on(["set", "kind", "category", "bin"], draw);
  draw();
  return box;
}

openComparison(takeData());
