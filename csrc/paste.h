// Where a pasted mask reads (Mask R-CNN §3.1, Inference): a pixel asks the mask that fills its box at its own centre,
// bilinear between the centres of the mask's cells and zero beyond them. Both axes are independent.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "common.h"

namespace maskrcnn {

// One axis of one box, in pixels. Acc is float, or double for double masks.
template <typename Acc>
struct PasteAxis {
  Acc start;
  Acc cells_per_pixel;
  bool valid;  // the box has an extent, and a finite one
};

template <typename Acc>
MASKRCNN_HOST_DEVICE PasteAxis<Acc> paste_axis(Acc low, Acc high, int64_t cells) {
  const Acc extent = high - low;
  const bool valid = std::isfinite(low) && std::isfinite(high) && std::isfinite(extent) && extent > Acc(0);
  return {low, valid ? Acc(cells) / extent : Acc(0), valid};
}

// A pixel lies between the centres of the cells `cell` and `cell + 1`; those at -1 and `cells` are zero.
template <typename Acc>
struct PasteTap {
  int64_t cell;
  Acc weight_low, weight_high;
};

// False: outside, counts as zero.
template <typename Acc>
MASKRCNN_HOST_DEVICE bool paste_tap(const PasteAxis<Acc>& axis, int64_t pixel, int64_t cells, PasteTap<Acc>* tap) {
  const Acc u = (Acc(pixel) + Acc(0.5) - axis.start) * axis.cells_per_pixel - Acc(0.5);
  if (!(axis.valid && u > Acc(-1) && u < Acc(cells))) return false;
  const Acc low = std::floor(u);
  tap->cell = int64_t(low);
  tap->weight_high = u - low;
  tap->weight_low = Acc(1) - tap->weight_high;
  return true;
}

// Pixels [first, last) hold all that have a tap, and few others.
template <typename Acc>
MASKRCNN_HOST_DEVICE void paste_window(const PasteAxis<Acc>& axis, Acc high, int64_t cells, int64_t pixels,
                                       int64_t* first, int64_t* last) {
  *first = *last = 0;
  if (!axis.valid) return;
  const Acc reach = (high - axis.start) / Acc(cells) / Acc(2) + Acc(1);  // one pixel for rounding
  const Acc low = std::floor(axis.start - reach), beyond = std::ceil(high + reach), size = Acc(pixels);
  *first = low < Acc(0) ? 0 : low > size ? pixels : int64_t(low);
  *last = beyond < Acc(0) ? 0 : beyond > size ? pixels : int64_t(beyond);
}

// Across first and down second: whoever asks in another order may round to another answer.
template <typename Acc>
MASKRCNN_HOST_DEVICE inline Acc blend(Acc weight_low, Acc low, Acc weight_high, Acc high) {
  return weight_low * low + weight_high * high;
}

// The arguments of both devices' operators.
inline void check_paste(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold) {
  check(masks.dim() == 3 && masks.size(1) == masks.size(2), "masks: shape ", shape_of(masks), "; expected (D, m, m)");
  for_floating_type(masks, "masks", [](auto) {});
  check_shape(boxes, "boxes", {masks.size(0), 4}, "(D, 4), a box per mask");
  check_boxes_dtype(boxes, "boxes", masks);
  check_same_device(boxes, "boxes", masks, "masks");
  check_frame(height, width);
  check(masks.size(1) < std::numeric_limits<int32_t>::max(), "masks: ", masks.size(1), " cells a side; expected fewer than 2^31 - 1");
  check(threshold > 0, "threshold: ", threshold, "; expected a number above 0, which is what lies around the boxes");
}

}  // namespace maskrcnn
