// Keypoint heat maps to points (Mask R-CNN §3.1; the upsampling is what the authors' code does): each map is resized to
// its box, bicubic, and the first largest sample is the keypoint.
//
// The resized map is never built. Between four neighbouring cells of the map, a patch, the surface has a cheap upper
// bound, and only the few patches that can hold the maximum are sampled: the cost is that of reading the map, whatever
// the size of the box.
#pragma once

#include <cmath>
#include <cstdint>

#include "common.h"

namespace maskrcnn {

// A longer box is sampled at this many points of a side: it bounds time for boxes that no image holds.
constexpr int64_t kMaxKeypointSamples = 8192;

// One side of one box, resized from `cells` to `samples`.
template <typename Acc>
struct KeypointAxis {
  Acc start, length;  // in the frame of the box
  Acc scale;          // cells per sample
  int64_t cells, samples;

  // Where sample i lies, in cells; the centre of cell c is at c.
  MASKRCNN_HOST_DEVICE Acc position(int64_t i) const { return scale * (Acc(i) + Acc(0.5)) - Acc(0.5); }

  // The cell at or before sample i: -1..cells - 1.
  MASKRCNN_HOST_DEVICE int64_t cell(int64_t i) const { return int64_t(std::floor(position(i))); }

  // The first sample whose cell is `wanted` or a later one.
  MASKRCNN_HOST_DEVICE int64_t first_sample(int64_t wanted) const {
    const Acc guess = std::ceil((Acc(wanted) + Acc(0.5)) / scale - Acc(0.5));
    int64_t i = guess > Acc(0) ? (guess < Acc(samples) ? int64_t(guess) : samples) : 0;
    while (i > 0 && cell(i - 1) >= wanted) --i;  // the guess is off by a rounding at most
    while (i < samples && cell(i) < wanted) ++i;
    return i;
  }

  // The centre of sample i, in the frame of the box (Heckbert 1990: continuous = discrete + 0.5).
  MASKRCNN_HOST_DEVICE Acc point(int64_t i) const { return start + (Acc(i) + Acc(0.5)) * (length / Acc(samples)); }
};

// False: the box is not finite on this axis. A side below one pixel counts as one.
template <typename Acc>
MASKRCNN_HOST_DEVICE bool keypoint_axis(Acc low, Acc high, int64_t cells, KeypointAxis<Acc>* axis) {
  const Acc length = high - low;
  if (!(std::isfinite(low) && std::isfinite(length))) return false;
  axis->start = low;
  axis->length = length > Acc(1) ? length : Acc(1);
  axis->cells = cells;
  axis->samples =
      axis->length < Acc(kMaxKeypointSamples) ? int64_t(std::ceil(axis->length)) : int64_t(kMaxKeypointSamples);
  axis->scale = Acc(cells) / Acc(axis->samples);
  return true;
}

// Weights of the cells before, at, after and two after a sample that lies `t` behind its cell: Keys' cubic, a = -0.75.
template <typename Acc>
MASKRCNN_HOST_DEVICE inline void cubic_weights(Acc t, Acc* w) {
  const Acc a = Acc(-0.75), u = Acc(1) - t;
  w[0] = a * t * u * u;
  w[1] = ((a + Acc(2)) * t - (a + Acc(3))) * t * t + Acc(1);
  w[2] = ((a + Acc(2)) * u - (a + Acc(3))) * u * u + Acc(1);
  w[3] = a * u * t * t;
}

template <typename Acc>
MASKRCNN_HOST_DEVICE inline Acc weighted(const Acc* w, Acc a, Acc b, Acc c, Acc d) {
  return w[0] * a + w[1] * b + w[2] * c + w[3] * d;
}

// Bounds of the cubic between b and c. With n = -(w0 + w3), which is at most 3/16, w1 + w2 = 1 + n: the value is at most
// (1 + n) max(b, c) - n min(a, d), and likewise from below. A patch's bound is the upper one of its rows' bounds: upper
// bounds of the inner two rows, lower ones of the outer two.
template <typename Acc>
MASKRCNN_HOST_DEVICE inline Acc cubic_upper(Acc a, Acc b, Acc c, Acc d) {
  const Acc inner = b > c ? b : c, outer = a < d ? a : d;
  const Acc beyond = inner + Acc(0.1875) * (inner - outer);
  return beyond > inner ? beyond : inner;
}

template <typename Acc>
MASKRCNN_HOST_DEVICE inline Acc cubic_lower(Acc a, Acc b, Acc c, Acc d) {
  const Acc inner = b < c ? b : c, outer = a > d ? a : d;
  const Acc beyond = inner + Acc(0.1875) * (inner - outer);
  return beyond < inner ? beyond : inner;
}

// Whether the 16 cells that a patch reads are equal; `at(k, l)` gives them. Its samples then differ by rounding alone,
// which may not choose the keypoint: only the first counts, with the cells' own value.
template <typename At>
MASKRCNN_HOST_DEVICE inline bool is_flat(At at) {
  for (int64_t k = 0; k < 4; ++k) {
    for (int64_t l = 0; l < 4; ++l) {
      if (at(k, l) != at(0, 0)) return false;
    }
  }
  return true;
}

// How far a computed sample may lie above its computed bound, by roundings: some hundred at most, of numbers no larger
// than twice the largest of the map.
template <typename Acc>
MASKRCNN_HOST_DEVICE inline Acc rounding_slack(Acc largest) {
  return Acc(256) * kEpsilon<Acc> * largest;
}

// A map with a value beyond this (or one that is no number) has no maximum: bicubic weights would overflow.
template <typename Acc>
MASKRCNN_HOST_DEVICE inline Acc largest_logit() {
  return kMax<Acc> / Acc(8);
}

// The best sample so far; of equal ones the first in reading order.
template <typename Acc>
struct Peak {
  Acc value;
  int64_t y, x;

  MASKRCNN_HOST_DEVICE bool is_behind(const Peak& other) const {
    if (value != other.value) return value < other.value;
    return y != other.y ? y > other.y : x > other.x;
  }
};

// The peak before any sample; every sample is before it.
template <typename Acc>
MASKRCNN_HOST_DEVICE inline Peak<Acc> no_peak() {
  return {-kInfinity<Acc>, kMax<int64_t>, 0};
}

// Strides of heatmaps (R, K, height, width), so that no layout needs a copy.
struct HeatmapLayout {
  int64_t boxes, keypoints, height, width;
  int64_t box_stride, keypoint_stride, row_stride, column_stride;
};

inline HeatmapLayout check_keypoints(const Tensor& heatmaps, const Tensor& boxes) {
  check_shape(heatmaps, "heatmaps", {-1, -1, -1, -1}, "(R, K, m, m)");
  check(heatmaps.size(2) > 0 && heatmaps.size(3) > 0, "heatmaps: shape ", shape_of(heatmaps),
        "; expected (R, K, m, m) with m > 0");
  check_shape(boxes, "boxes", {heatmaps.size(0), 4}, "(R, 4), a box for each row of heatmaps");
  check_boxes_dtype(boxes, "boxes", heatmaps);
  check_same_device(boxes, "boxes", heatmaps, "heatmaps");
  return {heatmaps.size(0),   heatmaps.size(1),   heatmaps.size(2),   heatmaps.size(3),
          heatmaps.stride(0), heatmaps.stride(1), heatmaps.stride(2), heatmaps.stride(3)};
}

}  // namespace maskrcnn
