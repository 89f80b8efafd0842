"use strict";
// The report of one run: reads the data and makes the sections in their order.

function openReport(data) {
  const state = data.sets.length > 0 ? new State(valuesFor(data.sets[0])) : null;
  const sections = [];
  if (state) {
    const viewer = new Viewer(state);
    sections.push(makeErrors(state, viewer), makeGallery(state, viewer), makeCurves(state), makeFigures(state));
  }
  sections.push(makeTraining(state, data), makeRun(data));
  const bar = makeBar(makeNavigation(sections), state && makeToolbar(state, data.sets));
  document.body.prepend(makeHead(state, data), bar, make("main", {}, ...sections));
}

openReport(takeData());
