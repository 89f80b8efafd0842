// Where RoIAlign reads (Mask R-CNN §3): the samples of one axis of one box. Both axes are independent, so a bin's
// weights are the products of its rows' and its columns' weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common.h"

namespace maskrcnn {

// One axis of one box, in feature pixels. Acc is float, or double for double features.
template <typename Acc>
struct RoIAxis {
  Acc start;        // of the first bin
  Acc bin;          // length of a bin; negative for an inverted box
  int64_t samples;  // in a bin; 0 for a box without extent under adaptive sampling
  bool finite;
};

template <typename Acc>
MASKRCNN_HOST_DEVICE RoIAxis<Acc> roi_axis(Acc low, Acc high, Acc scale, int64_t bins, int64_t sampling_ratio,
                                           bool aligned) {
  const Acc offset = aligned ? Acc(0.5) : Acc(0);
  const Acc start = low * scale - offset;
  Acc length = (high * scale - offset) - start;
  // Infinite differences of finite corners count as non-finite too; they would be undefined as an integer.
  const bool finite = std::isfinite(start) && std::isfinite(length);
  if (!aligned && length < Acc(1)) length = Acc(1);
  const Acc bin = length / Acc(bins);
  int64_t samples = sampling_ratio;
  if (sampling_ratio <= 0) {
    const Acc wanted = std::ceil(bin);
    // The cap is far above any image, and keeps the conversion defined.
    samples = !(finite && wanted > Acc(0)) ? 0 : wanted < Acc(1 << 30) ? int64_t(wanted) : int64_t(1) << 30;
  }
  return {start, bin, samples, finite};
}

// The samples of bin p that can lie on the map, [first, last): the rest would only cost time, up to 2^30 of them.
template <typename Acc>
MASKRCNN_HOST_DEVICE void sample_range(const RoIAxis<Acc>& axis, int64_t p, int64_t size, int64_t* first,
                                       int64_t* last) {
  *first = 0;
  *last = axis.samples;
  const double step = double(axis.bin) / double(axis.samples);
  if (axis.samples <= 16 || !(step > 0)) return;
  const double origin = double(axis.start) + double(p) * double(axis.bin);
  // Two samples of margin: each is still tested by itself.
  const double low = std::floor((-1.0 - origin) / step) - 2.0, high = std::ceil((double(size) - origin) / step) + 2.0;
  const double count = double(axis.samples);
  *first = int64_t(low < 0.0 ? 0.0 : low > count ? count : low);
  *last = int64_t(high < 0.0 ? 0.0 : high > count ? count : high);
}

// Sample i of bin p on a map of `size` pixels: two neighbours and their weights; false: outside, counts as zero.
template <typename Acc>
MASKRCNN_HOST_DEVICE bool roi_sample(const RoIAxis<Acc>& axis, int64_t p, int64_t i, int64_t size, int64_t* low,
                                     int64_t* high, Acc* weight_low, Acc* weight_high) {
  Acc x = axis.start + Acc(p) * axis.bin + (Acc(i) + Acc(0.5)) * axis.bin / Acc(axis.samples);
  if (!(x >= Acc(-1) && x <= Acc(size))) return false;
  if (x < Acc(0)) x = Acc(0);
  *low = int64_t(x);
  if (*low >= size - 1) {
    *low = *high = size - 1;
    *weight_low = Acc(1);
    *weight_high = Acc(0);
  } else {
    *high = *low + 1;
    *weight_high = x - Acc(*low);
    *weight_low = Acc(1) - *weight_high;
  }
  return true;
}

}  // namespace maskrcnn
