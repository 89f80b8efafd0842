// Soft-NMS (Bodla et al. 2017): what an overlap leaves of a score, and what the arguments must be.
#pragma once

#include "nms.h"

namespace maskrcnn {

// f(iou) of Eq. 2 (linear) or of Eq. 3 (Gaussian).
template <typename T>
struct Decay {
  T iou_threshold, sigma;
  bool gaussian;

  // An overlap of no more than this leaves a score as it is; so does NaN.
  MASKRCNN_HOST_DEVICE T harmless() const { return gaussian ? T(0) : iou_threshold; }

  MASKRCNN_HOST_DEVICE T operator()(T iou) const {
    if (!(iou > harmless())) return T(1);
    return gaussian ? std::exp(-(iou * iou) / sigma) : T(1) - iou;
  }
};

// A score that is not finite has no place in an order that changes by products.
template <typename T>
MASKRCNN_HOST_DEVICE bool can_decay(const T* box, T score) {
  return takes_part(box, score) && std::isfinite(score);
}

// boxes (N, 4), scores (N,) of the same dtype, groups (N,).
inline void check_soft_nms(const Tensor& boxes, const Tensor& scores, const Tensor& groups, double iou_threshold,
                           double sigma, double min_score) {
  check_nms(boxes, scores, groups, iou_threshold);
  check_dtype(scores, "scores", boxes.scalar_type());
  check(sigma > 0, "sigma: ", sigma, "; expected a positive number");
  check(min_score >= 0, "min_score: ", min_score, "; expected a number that is not negative");
}

}  // namespace maskrcnn
