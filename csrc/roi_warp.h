// Where RoIWarp reads (MNC §4, Eq. 6-8): the samples of one axis of one box. Both axes are independent: a sample's
// weights are the products of its row's and its column's.
#pragma once

#include <cmath>
#include <cstdint>

#include "common.h"

namespace maskrcnn {

// One axis of one box, in feature pixels.
template <typename Acc>
struct WarpAxis {
  Acc start, length;
  bool stretches;  // whether `length` follows the corners; not where it is held at zero
  bool finite;
};

// `rounded`: whole corners and no negative length, as in MNC's released code.
template <typename Acc>
MASKRCNN_HOST_DEVICE WarpAxis<Acc> warp_axis(Acc low, Acc high, Acc scale, bool rounded) {
  low *= scale;
  high *= scale;
  const bool finite = std::isfinite(low) && std::isfinite(high - low);
  if (!rounded) return {low, high - low, true, finite};
  low = std::round(low);
  high = std::round(high);
  return {low, high > low ? high - low : Acc(0), high >= low, finite};
}

// A sample as a sum over two pixels: F = weight_low F(low) + weight_high F(high), and dF/dx likewise with the slopes.
template <typename Acc>
struct WarpTaps {
  int64_t low, high;
  Acc weight_low, weight_high;
  Acc slope_low, slope_high;
  Acc ratio;    // dx / d(high corner), in feature pixels; dx / d(low corner) is 1 - ratio
  bool on_map;  // false: zero, whatever the pixels hold
};

// Sample p of `samples` on a map of `size` pixels: x = start + length p / samples, the start of the p-th bin. Each
// pixel u weighs max(0, 1 - |x - u|) (Eq. 8), and those beyond the map are none: values fade to zero within one pixel
// outside the border pixels' centres. At a whole x, where the weights have a kink, the slope is the one to the right.
template <typename Acc>
MASKRCNN_HOST_DEVICE WarpTaps<Acc> warp_taps(const WarpAxis<Acc>& axis, int64_t p, int64_t samples, int64_t size) {
  WarpTaps<Acc> taps = {0, 0, 0, 0, 0, 0, 0, false};
  const Acc ratio = Acc(p) / Acc(samples);
  const Acc x = axis.start + ratio * axis.length;
  if (size == 0 || !(x >= Acc(-1) && x < Acc(size))) return taps;
  const Acc whole = std::floor(x), fraction = x - whole;
  const int64_t low = int64_t(whole);
  if (low >= size) return taps;  // Acc(size) may be rounded up
  const bool has_low = low >= 0, has_high = low + 1 < size;
  taps.low = has_low ? low : 0;
  taps.high = has_high ? low + 1 : size - 1;
  taps.weight_low = has_low ? Acc(1) - fraction : Acc(0);
  taps.weight_high = has_high ? fraction : Acc(0);
  taps.slope_low = has_low ? Acc(-1) : Acc(0);
  taps.slope_high = has_high ? Acc(1) : Acc(0);
  taps.ratio = axis.stretches ? ratio : Acc(0);
  taps.on_map = true;
  return taps;
}

// The samples [first, last) that may read a pixel, with a margin for rounding: each is still to be tested by its taps.
template <typename Acc>
MASKRCNN_HOST_DEVICE void warp_samples(const WarpAxis<Acc>& axis, int64_t pixel, int64_t samples, int64_t* first,
                                       int64_t* last) {
  *first = 0;
  *last = samples;
  const Acc step = axis.length / Acc(samples);
  if (step == Acc(0)) return;
  const Acc a = (Acc(pixel) - Acc(1) - axis.start) / step, b = (Acc(pixel) + Acc(1) - axis.start) / step;
  const Acc low = std::floor(a < b ? a : b) - Acc(2), high = std::ceil(a < b ? b : a) + Acc(2);
  *first = low > Acc(0) ? (low < Acc(samples) ? int64_t(low) : samples) : 0;
  *last = high > Acc(0) ? (high < Acc(samples) ? int64_t(high) : samples) : 0;
}

inline void check_roi_warp(const Tensor& features, const Tensor& rois, int64_t height, int64_t width) {
  check_values_and_rois(features, "features", "(N, C, H, W)", rois);
  check_output_size(height, width);
}

inline void check_roi_warp_backward_rois(const Tensor& grad, const Tensor& features, const Tensor& rois) {
  check_values_and_rois(features, "features", "(N, C, H, W)", rois);
  check_grad_and_rois(grad, rois, features.size(0), features.size(2), features.size(3));
  check(grad.size(1) == features.size(1), "grad: shape ", shape_of(grad), "; expected ", features.size(1),
        " channels, as in features");
  check_dtype(grad, "grad", features.scalar_type());
  check_same_device(grad, "grad", features, "features");
}

}  // namespace maskrcnn
