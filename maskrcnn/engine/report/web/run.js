"use strict";
// How the run came about: facts, timing, each start, the config with where each value came from, the command again.

function makeRun(data) {
  const { repeat, facts, timing, starts } = data.run;
  const parts = [];
  if (repeat) parts.push(make("h3", {}, "To repeat it"), makeCommand(repeat));
  parts.push(
    make(
      "div",
      { class: "columns" },
      facts.length > 0 && make("div", {}, make("h3", {}, "Facts"), pairsTable(facts)),
      timing.length > 0 && make("div", {}, make("h3", {}, "Time"), pairsTable(timing)),
    ),
  );
  if (starts.length > 0) parts.push(make("h3", {}, starts.length === 1 ? "Start" : `${starts.length} starts`));
  parts.push(...starts.map((start, i) => startDetails(start, i === starts.length - 1)));
  if (data.config.length > 0) parts.push(make("h3", {}, "Config"), configTable(data.config));
  return makeSection("run", "Run", ...parts);
}

const pairsTable = (pairs) =>
  make(
    "table",
    { class: "pairs" },
    make(
      "tbody",
      {},
      ...pairs.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value))),
    ),
  );

function makeCommand(text) {
  const code = make("code", {}, text);
  const button = make("button", { type: "button", onclick: () => copyText(text, code, button) }, "copy");
  return make("div", { class: "command" }, code, button);
}

/** To the clipboard; where the browser forbids that, the text is selected for the reader to copy. */
async function copyText(text, element, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  } catch {
    getSelection().selectAllChildren(element);
  }
}

function startDetails(start, open) {
  const { git } = start;
  const state = git
    ? [
      git.commit.slice(0, 12),
      git.branch && `on ${git.branch}`,
      git.changed.length ? `with changes in ${git.changed.join(", ")}` : "without changes",
    ]
    : [];
  const rows = [
    ["folder", start.folder],
    ["processes", String(start.processes)],
    ["git", git ? state.filter(Boolean).join(" ") : "not in a repository"],
    ...start.environment,
  ];
  const title = `${moment(start.when)}, ${
    start.iteration ? `from iteration ${whole(start.iteration)}` : "from the beginning"
  }`;
  return make("details", { open }, make("summary", {}, title), makeCommand(start.command), pairsTable(rows));
}

function configTable(config) {
  const body = make("tbody");
  const count = make("span", { class: "note", id: "config-count", "aria-live": "polite" });
  const filter = make("input", {
    type: "search",
    id: "config-filter",
    placeholder: "filter by key, value or origin",
    "aria-label": "Filter the config",
    oninput: () => draw(),
  });
  const draw = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = config.filter((row) => words.every((word) => row.join(" ").toLowerCase().includes(word)));
    count.textContent = ` ${rows.length} of ${config.length}`;
    body.replaceChildren(
      ...rows.map(([key, value, origin]) =>
        make(
          "tr",
          {},
          make("th", { scope: "row", class: "text" }, make("code", {}, key)),
          make("td", { class: "value" }, make("code", {}, value)),
          make("td", { class: "origin" }, origin),
        )
      ),
    );
  };
  draw();
  const head = make(
    "thead",
    {},
    make("tr", {}, ...["key", "value", "set by"].map((name) => make("th", { scope: "col", class: "text" }, name))),
  );
  return make(
    "div",
    { class: "table" },
    make("p", {}, filter, count),
    make(
      "div",
      { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "config" },
      make("table", { class: "data config" }, head, body),
    ),
  );
}
