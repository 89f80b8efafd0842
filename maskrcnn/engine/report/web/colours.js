"use strict";
// Colours on pictures and curves: by category, or by whether a match was found. A dashed line always says "wrong".

// Okabe and Ito's palette, which colour-blind readers can tell apart.
const FEW = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#3f8fd2"];
const OUTCOMES = { right: "#56b4e9", wrong: "#ff9f1c", crowd: "#c8c8c8" };

/** The same label has the same colour on every page with as many categories. */
function classColour(label, classes) {
  if (classes <= FEW.length) return FEW[label % FEW.length];
  const hue = (label * 137.508) % 360; // the golden angle: neighbours are far apart
  return `hsl(${hue.toFixed(0)} ${label % 2 ? 90 : 70}% ${label % 3 ? 66 : 74}%)`; // light enough for black text
}
