"use strict";
// The report of one run: reads the data, makes the sections in their order.

function openReport(data) {
  const state = data.sets.length > 0 ? new State({ ...valuesFor(data.sets[0]), colours: coloursFor(data.sets[0]) }) : null;
  const sections = [];
  if (state) {
    const viewer = new Viewer(state);
    sections.push(makeErrors(state, viewer), makeGallery(state, viewer));
  }
  document.body.prepend(
    makeHead(state, data),
    ...(state ? [makeToolbar(state, data.sets)] : []),
    make("main", {}, ...sections),
  );
}

const coloursFor = (set) => (set.classes.length > 1 ? "class" : "outcome");

openReport(JSON.parse(document.getElementById("data").textContent));
