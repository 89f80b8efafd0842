"use strict";
// Several runs: their names with colours, and each one's view of a test set.

// Of the runs' lines, so that one shows through the gaps of another that lies on it.
const RUN_DASHES = [[], [8, 4], [3, 3], [12, 4, 3, 4], [5, 6], [1.5, 2.5]];

/** A run's name with its number in its colour; its lines in charts have the same colour. */
function runName({ name, index }) {
  const mark = make("span", { class: "mark", "aria-hidden": "true" }, String(index + 1));
  mark.style.setProperty("--colour", `var(--line-${index % LINE_COLOURS})`);
  return make("span", { class: "run" }, mark, make("span", { class: "name" }, name));
}

/** COCO's -1 says that there is no such object, which has no difference to anything. */
const gap = (value, first) => (exists(value) && exists(first) && value >= 0 && first >= 0 ? value - first : null);

/**
 * A set as the sections of a report read it, which is the first run's, with `members`: [{run, set}], each one's own.
 * A picture has `views`, one of each member, and `truth`.
 */
function expandSet(set, runs) {
  const { name, images, classes, objects, groups, left_off } = set;
  const members = set.runs.map((run, i) => ({
    run: runs[run],
    set: {
      name,
      images,
      classes,
      objects,
      groups,
      left_off,
      kinds: Object.fromEntries(Object.entries(set.kinds).map(([kind, all]) => [kind, all[i]])),
    },
  }));
  return { ...members[0].set, members, pictures: set.pictures.map(expandPicture) };
}

function expandPicture({ runs, ...picture }) {
  const views = runs.map(({ quality, found_by, detections }) => ({
    ...picture,
    quality,
    objects: { ...picture.objects, found_by },
    detections,
  }));
  return { ...views[0], views, truth: truthOf(picture, views) };
}

/** The ground truth for all runs: an object is found at a score if each of them has found it there. */
function truthOf(picture, views) {
  const score = [];
  const found_by = {};
  for (const kind of Object.keys(views[0].objects.found_by)) {
    found_by[kind] = picture.objects.box.map((_, row) => {
      const lowest = Math.min(...views.map((view) => foundScore(view, kind, row)));
      return lowest < 0 ? -1 : score.push(lowest) - 1;
    });
  }
  return { ...picture, views, objects: { ...picture.objects, found_by }, detections: { score } };
}

/** The score with which an object was found, -1 if it was not. */
function foundScore(view, kind, row) {
  const finder = view.objects.found_by[kind][row];
  return finder < 0 ? -1 : view.detections.score[finder];
}

/** Series of several runs over the values of x that any of them has. parts: [{run, xs, values}]. */
function joinRuns(parts, options = {}) {
  const present = parts.filter(({ values }) => values?.some(exists));
  if (present.length === 0) return { xs: [], series: [] };
  const [xs, ...values] = uPlot.join(present.map((part) => [part.xs, part.values]));
  return {
    xs,
    series: present.map(({ run }, i) => ({
      label: run.name,
      colour: run.index,
      dash: RUN_DASHES[run.index % RUN_DASHES.length],
      values: values[i],
      ...options,
    })),
  };
}
