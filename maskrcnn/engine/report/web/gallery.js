"use strict";
// Pictures in groups, ground truth beside predictions.

const MANY = 12; // cards shown before the reader asks for more

const SIDE_BY_SIDE =
  "Ground truth on the left, predictions at the chosen score on the right. A solid line has a match at IoU 0.5, " +
  "a dashed one has none (a missed object, a wrong detection), a dotted one is a crowd region.";

/** `text`: (state, picture) => a line on it. */
function makeGallery(state, viewer, { note = SIDE_BY_SIDE, makeCard = pictureCard, text = countsLine } = {}) {
  const lazy = new Lazy();
  const tabs = make("div", { class: "tabs", role: "tablist", "aria-label": "Groups of pictures" });
  const cards = make("div", { class: "cards", id: "cards", role: "tabpanel" });
  const missing = make("p", { class: "note", id: "left-off" });
  const more = make("button", { type: "button", class: "more", onclick: () => drawCards(Infinity) });
  let chosen = null;

  function drawTabs() {
    const names = groupsOf(state).map((group) => group.name);
    if (!names.includes(chosen)) chosen = names[0] ?? null;
    const choose = (name) => {
      chosen = name;
      drawTabs();
      drawCards(MANY);
      [...tabs.children].find((tab) => tab.dataset.group === name).focus();
    };
    tabs.replaceChildren(...names.map((name, i) =>
      make("button", {
        type: "button",
        role: "tab",
        id: `tab-${name}`,
        "data-group": name,
        "aria-selected": String(name === chosen),
        "aria-controls": "cards",
        tabindex: name === chosen ? 0 : -1,
        title: ERRORS[name],
        onclick: () => choose(name),
        onkeydown: (event) => {
          const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (by) choose(names[(i + by + names.length) % names.length]);
        },
      }, name)
    ));
    if (chosen !== null) cards.setAttribute("aria-labelledby", `tab-${chosen}`);
  }

  function drawCards(limit) {
    const { set, category } = state.values;
    const group = groupsOf(state).find((one) => one.name === chosen);
    const has = (picture) =>
      category < 0 || [picture.objects, picture.detections].some((side) => side.label.includes(category));
    const pictures = (group?.pictures ?? []).map((index) => set.pictures[index]).filter(has);
    const items = pictures.map((picture) => ({ picture, focus: null, text: () => text(state, picture) }));
    lazy.clear();
    items.slice(0, limit).forEach((item) => imageOf(item.picture)); // loaded by the time of a print
    cards.replaceChildren(
      ...items.slice(0, limit).map((item, i) => makeCard(state, item, lazy, () => viewer.open(items, i))),
    );
    if (items.length === 0) cards.append(make("p", { class: "note" }, "There is no picture here."));
    more.hidden = items.length <= limit;
    more.textContent = `show all ${items.length}`;
  }

  function drawAll() {
    missing.textContent = (state.values.set.left_off ?? []).join(" ");
    missing.hidden = missing.textContent === "";
    drawTabs();
    drawCards(MANY);
  }

  state.on(["set", "kind", "category"], drawAll);
  state.on(["bin", "layers", "colours"], () => lazy.redraw());
  addEventListener("beforeprint", () => lazy.drawAll());
  drawAll();
  return makeSection(
    "pictures",
    "Pictures",
    make("p", { class: "note" }, note),
    missing,
    make("div", { class: "controls" }, tabs, makeLayers(state)),
    cards,
    more,
  );
}

/** The set's own groups, then one for each error type: pictures with examples of it. */
function groupsOf(state) {
  const types = state.figures.errors.types.filter((type) => type.examples.length > 0);
  const byError = types.map((type) => ({
    name: type.name,
    pictures: [...new Set(type.examples.map(([picture]) => picture))],
  }));
  return [...state.values.set.groups, ...byError];
}

/** Of a card's canvases: no taller than wide, no wider than twice the height. */
const cardAspect = ({ width, height }) => String(Math.min(Math.max(width / height, 1), 2));

function pictureCard(state, item, lazy, open) {
  const { picture } = item;
  const pair = ["objects", "detections"].map((side) => [side, make("canvas", { "aria-hidden": "true" })]);
  for (const [, canvas] of pair) canvas.style.aspectRatio = cardAspect(picture);
  const line = make("span", { class: "line" });
  const quality = exists(picture.quality) ? `quality ${fixed(picture.quality)}` : "";
  const card = make(
    "button",
    { type: "button", class: "card", onclick: open },
    make("span", { class: "pair" }, ...pair.map(([, canvas]) => canvas)),
    make(
      "span",
      { class: "caption" },
      make("span", { class: "file" }, picture.file),
      make("span", { class: "quality", title: "Panoptic quality of this picture, 0 to 1" }, quality),
    ),
    line,
  );
  lazy.add(card, () => {
    line.textContent = item.text();
    const look = lookOf(state, picture);
    pair.forEach(([side, canvas]) => drawPicture(canvas, picture, side, look));
  });
  return card;
}

function countsLine(state, picture) {
  const { kind, bin, category } = state.values;
  const { objects, found, detections, wrong } = countOutcomes(picture, kind, bin, category);
  return `${plural(objects, "object")}, ${whole(found)} found; ${plural(detections, "detection")}, ${
    whole(wrong)
  } wrong`;
}
