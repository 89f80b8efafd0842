"use strict";
// The head: what was evaluated, on what, and how well, in one look.

const HEADLINE = ["AP", "AP50", "AP75", "APs", "APm", "APl"];

function makeHead(state, data) {
  const facts = make("p", { class: "facts" });
  const box = make("div");
  const verdict = make("p", { class: "verdict" });

  function draw() {
    if (!state) return;
    const { set } = state.values;
    facts.textContent = factsOf(set, data.made);
    box.replaceChildren(headlineTable(set));
    verdict.textContent = verdictOf(state.figures);
  }

  if (state) {
    state.on(["set", "kind"], draw);
    draw();
  } else {
    facts.textContent = `made ${moment(data.made)}`;
    verdict.textContent =
      "No detections have been evaluated yet. This page shows figures, errors and pictures after the first " +
      "evaluation by the evaluator coco.";
  }
  return make("header", { class: "head", id: "top" }, make("h1", {}, data.title), facts, box, verdict);
}

/** "nuclei_val · 60 images · 1,740 objects · 1 category · made 28 Nov 2026, 18:10 UTC". */
function factsOf({ name, images, objects, classes, evaluated }, made) {
  const categories = classes.length === 1 ? "1 category" : `${classes.length} categories`;
  const facts = [name, plural(images, "image"), plural(sum(objects), "object"), categories, evaluated];
  return [...facts, `made ${moment(made)}`].filter(Boolean).join(" · ");
}

function headlineTable(set) {
  const rows = Object.entries(set.kinds).map(([kind, { figures }]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, KIND_NAMES[kind] ?? kind),
      ...HEADLINE.map((name) => make("td", {}, figure(figures[name]))),
    )
  );
  const head = make("tr", {}, make("td"), ...HEADLINE.map((name) => make("th", { scope: "col" }, name)));
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures" },
    make("table", { class: "headline" }, make("thead", {}, head), make("tbody", {}, ...rows)),
  );
}

function makeNavigation(sections) {
  const links = sections.map((section) =>
    make("a", { href: `#${section.id}` }, section.querySelector("h2").textContent.split(":")[0])
  );
  return make("nav", { "aria-label": "Sections" }, make("a", { href: "#top" }, "Top"), ...links);
}

/** What would help most, in a sentence. */
function verdictOf({ errors }) {
  const worst = errors.types.filter((type) => type.count > 0 && exists(type.gain)).sort((a, b) => b.gain - a.gain)[0];
  if (!worst || worst.gain <= 0) return "";
  const what = worst.name === "missed" ? "missed objects" : `errors of type “${worst.name}”`;
  return `Costs most: ${what}, ${fixed(worst.gain, 1)} points of AP50 (${plural(worst.count, "case")}).`;
}

/** "2026-11-28T18:10:00+00:00" -> "28 Nov 2026, 18:10 UTC": as it was written, wherever the reader is. */
function moment(text) {
  const time = new Date(text);
  if (!text || Number.isNaN(time.getTime())) return text || NONE;
  const options = {
    day: "numeric",
    month: "short",
    year: "numeric",
    hour: "2-digit",
    minute: "2-digit",
    timeZone: "UTC",
  };
  return `${time.toLocaleString("en-GB", options)} UTC`;
}
