"use strict";
// True and false detections at a score: precision, recall, F1, and what was taken for what.
// A score belongs to bin floor(100 * score), and "at score t" means the bins from 100 * t up.

const BINS = 101;
const scoreBin = (score) => Math.min(BINS - 1, Math.floor(100 * score));

/** A score as the slider counts it, not rounded up to a value at which it is left out: 0.697 -> "0.69". */
const scoreText = (score) => fixed(scoreBin(score) / 100);

const sum = (numbers) => numbers.reduce((total, n) => total + n, 0);

/** One category's row of a K-row table, or for category -1 the sum over all rows. */
function pooled(rows, category) {
  if (category >= 0) return rows[category];
  const total = new Array(rows[0]?.length ?? BINS).fill(0);
  for (const row of rows) row.forEach((value, i) => (total[i] += value));
  return total;
}

/** tail[b]: the sum of the bins from b up. */
function tailOf(bins) {
  const tail = bins.slice();
  for (let b = tail.length - 2; b >= 0; b--) tail[b] += tail[b + 1];
  return tail;
}

const tailCache = new WeakMap(); // of KIND -> by category

/** For each bin: precision, recall and F1 (null where undefined) of the detections from there up, and their number. */
function ratesByScore(set, figures, category) {
  if (!tailCache.has(figures)) tailCache.set(figures, new Map());
  const cache = tailCache.get(figures);
  if (!cache.has(category)) {
    const right = tailOf(pooled(figures.counts.true, category));
    const wrong = tailOf(pooled(figures.counts.false, category));
    const objects = category >= 0 ? set.objects[category] : sum(set.objects);
    cache.set(category, right.map((r, b) => rates(r, wrong[b], objects)));
  }
  return cache.get(category);
}

function rates(right, wrong, objects) {
  const detections = right + wrong;
  return {
    detections,
    precision: detections ? right / detections : null,
    recall: objects ? right / objects : null,
    f1: detections + objects ? (2 * right) / (detections + objects) : null,
  };
}

/** The bin from which on F1 is highest, of equal ones the last; null if nothing is right at any score. */
function bestBin(set, figures, category) {
  const f1 = ratesByScore(set, figures, category).map((at) => at.f1 ?? 0);
  const highest = Math.max(...f1);
  return highest > 0 ? f1.lastIndexOf(highest) : null;
}

/** Pairs counted from this bin up: a map of object class -> map of detected class -> count. Class K is nothing. */
function confusionAt(figures, bin) {
  const table = new Map();
  for (const [object, detected, pairs] of figures.confusion) {
    let count = 0;
    for (let i = 0; i < pairs.length; i += 2) if (pairs[i] >= bin) count += pairs[i + 1];
    if (count === 0) continue;
    if (!table.has(object)) table.set(object, new Map());
    table.get(object).set(detected, (table.get(object).get(detected) ?? 0) + count);
  }
  return table;
}
