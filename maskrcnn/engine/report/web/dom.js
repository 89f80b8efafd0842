"use strict";
// Elements, texts and numbers. What comes from the data becomes text nodes and attributes, never HTML.

const NONE = "–"; // where there is no number

/** make("button", {class: "small", onclick: f}, "text", child): an element; false, null and undefined are left out. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A section of the page with its heading; `id` is where the navigation leads. */
function makeSection(id, title, ...children) {
  return make(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    make("h2", { id: `${id}-title` }, title),
    ...children,
  );
}

/** A select of [value, text] pairs with its label. `change` gets the value as text. */
function makeSelect(label, id, pairs, value, change) {
  const options = pairs.map(([key, text]) =>
    make("option", { value: key, selected: String(key) === String(value) }, text)
  );
  const select = make("select", { id, onchange: () => change(select.value) }, ...options);
  return make("label", { class: "field" }, make("span", {}, label), select);
}

/** A labelled checkbox. `change` gets true or false. */
function makeCheckbox(label, checked, change) {
  const box = make("input", { type: "checkbox", checked, onchange: () => change(box.checked) });
  return make("label", { class: "check" }, box, label);
}

const exists = (value) => value !== null && value !== undefined && !Number.isNaN(value);

/** 0.4567 -> "0.46"; null -> "–". */
const fixed = (value, digits = 2) => (exists(value) ? value.toFixed(digits) : NONE);

/** AP and its like, 0..100; COCO's -1 means that there is no ground truth of this kind. */
const figure = (value) => (exists(value) && value >= 0 ? value.toFixed(1) : NONE);

/** 0.4 -> "+0.4", -1.25 -> "−1.3"; without a value of both there is no difference. */
function signed(value, digits = 1) {
  if (!exists(value)) return NONE;
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : `${value < 0 ? "−" : "+"}${text}`;
}

/** 12345 -> "12,345". */
const whole = (value) => (exists(value) ? Math.round(value).toLocaleString("en-GB") : NONE);

/** plural(2, "object") -> "2 objects". */
const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

/** A colour of the style sheet by its variable's name; it changes with light and dark. */
const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const KIND_NAMES = { segm: "masks", bbox: "boxes" };

/** The data that the page carries; its text is not kept twice. */
function takeData() {
  const element = document.getElementById("data");
  const data = JSON.parse(element.textContent);
  element.remove();
  return data;
}
