// Where RoIPool looks (Fast R-CNN §2.1): windows of whole pixels, one axis of one box at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "common.h"

namespace maskrcnn {

// One axis of one box. Whole numbers, but an Acc: a box may lie further out than any integer reaches.
template <typename Acc>
struct PoolAxis {
  Acc start;  // the first pixel
  Acc bin;    // pixels in a bin
  bool finite;
};

// In the arithmetic of Fast R-CNN's code, whose rounding now and then puts one more pixel into the last bin: 57 pixels
// in 7 bins end at ceil(7 * (57 / 7)) = 58 in float.
template <typename Acc>
MASKRCNN_HOST_DEVICE PoolAxis<Acc> pool_axis(Acc low, Acc high, Acc scale, int64_t bins) {
  low *= scale;
  high *= scale;
  const bool finite = std::isfinite(low) && std::isfinite(high - low);
  const Acc start = std::round(low);  // half away from zero
  const Acc length = std::round(high) - start + Acc(1);
  return {start, (length > Acc(1) ? length : Acc(1)) / Acc(bins), finite};
}

// The pixels [first, last) of bin p on a map of `size` pixels; none where last <= first.
template <typename Acc>
MASKRCNN_HOST_DEVICE void pool_window(const PoolAxis<Acc>& axis, int64_t p, int64_t size, int64_t* first,
                                      int64_t* last) {
  const Acc low = std::floor(Acc(p) * axis.bin) + axis.start, high = std::ceil(Acc(p + 1) * axis.bin) + axis.start;
  *first = low > Acc(0) ? (low < Acc(size) ? int64_t(low) : size) : 0;
  *last = high > Acc(0) ? (high < Acc(size) ? int64_t(high) : size) : 0;
  if (*first > size) *first = size;  // Acc(size) may be rounded up
  if (*last > size) *last = size;
}

// The bins [first, last) that may hold a pixel, with a margin for rounding: each is still to be tested by its window.
template <typename Acc>
MASKRCNN_HOST_DEVICE void pool_bins(const PoolAxis<Acc>& axis, int64_t pixel, int64_t bins, int64_t* first,
                                    int64_t* last) {
  const Acc offset = Acc(pixel) - axis.start;
  const Acc low = std::floor(offset / axis.bin) - Acc(2), high = std::ceil((offset + Acc(1)) / axis.bin) + Acc(2);
  *first = low > Acc(0) ? (low < Acc(bins) ? int64_t(low) : bins) : 0;
  *last = high > Acc(0) ? (high < Acc(bins) ? int64_t(high) : bins) : 0;
}

// Positions in a plane are int32.
inline void check_plane(int64_t height, int64_t width) {
  check(height == 0 || width <= std::numeric_limits<int32_t>::max() / height, "features: planes of ", height, " x ",
        width, " pixels; expected fewer than 2^31");
}

inline void check_roi_pool(const Tensor& features, const Tensor& rois, int64_t height, int64_t width) {
  check_values_and_rois(features, "features", "(N, C, H, W)", rois);
  check_output_size(height, width);
  check_plane(features.size(2), features.size(3));
}

inline void check_roi_pool_backward(const Tensor& grad, const Tensor& argmax, const Tensor& rois, int64_t images,
                                    int64_t in_height, int64_t in_width) {
  check_grad_and_rois(grad, rois, images, in_height, in_width);
  check_plane(in_height, in_width);
  check_shape(argmax, "argmax", {grad.size(0), grad.size(1), grad.size(2), grad.size(3)}, "the shape of grad");
  check_dtype(argmax, "argmax", ScalarType::Int);
  check_same_device(argmax, "argmax", grad, "grad");
}

}  // namespace maskrcnn
