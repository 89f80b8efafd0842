"use strict";
// The report of one run: reads the data and makes the sections in their order.

function openReport(data) {
  const state = data.sets.length > 0
    ? new State({ ...valuesFor(data.sets[0]), colours: coloursFor(data.sets[0]) })
    : null;
  const sections = [];
  if (state) {
    const viewer = new Viewer(state);
    sections.push(makeErrors(state, viewer), makeGallery(state, viewer), makeCurves(state), makeFigures(state));
  }
  sections.push(makeTraining(state, data), makeRun(data));
  const bar = make("div", { class: "bar-top" }, makeNavigation(sections), state && makeToolbar(state, data.sets));
  document.body.prepend(makeHead(state, data), bar, make("main", {}, ...sections));
}

function makeNavigation(sections) {
  const links = sections.map((section) =>
    make("a", { href: `#${section.id}` }, section.querySelector("h2").textContent.split(":")[0])
  );
  return make("nav", { "aria-label": "Sections" }, make("a", { href: "#top" }, "Top"), ...links);
}

const coloursFor = (set) => (set.classes.length > 1 ? "class" : "outcome");

openReport(takeData());
