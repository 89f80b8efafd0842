// Non-maximum suppression: when one box suppresses another, and what the arguments must be. Both devices decide alike,
// bit for bit: areas and overlaps are rounded step by step, and the division stays, since a product would decide ties
// otherwise.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>

#include "common.h"

namespace maskrcnn {

// The rounded product: nvcc would otherwise fuse it with the sum that follows.
template <typename T>
MASKRCNN_HOST_DEVICE T product(T a, T b) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, double>) {
    return __dmul_rn(a, b);
  } else {
    return __fmul_rn(a, b);
  }
#else
  return a * b;
#endif
}

template <typename T>
struct Corners {
  T x1, y1, x2, y2, area;
};

template <typename T>
MASKRCNN_HOST_DEVICE Corners<T> corners_of(const T* box) {
  const T width = box[2] > box[0] ? box[2] - box[0] : T(0), height = box[3] > box[1] ? box[3] - box[1] : T(0);
  return {box[0], box[1], box[2], box[3], product(width, height)};
}

// A box that takes part: it has four numbers, and its score is one.
template <typename T, typename S>
MASKRCNN_HOST_DEVICE bool takes_part(const T* box, S score) {
  return std::isfinite(box[0]) && std::isfinite(box[1]) && std::isfinite(box[2]) && std::isfinite(box[3]) &&
         !std::isnan(score);
}

// A box whose area is zero or overflows overlaps nothing: its IoU is 0 or not a number, never above a threshold.
template <typename T>
MASKRCNN_HOST_DEVICE bool can_overlap(const Corners<T>& box) {
  return box.area > T(0) && std::isfinite(box.area);
}

// NaN (0 / 0, or an area that overflows) compares as false with every threshold.
template <typename T>
MASKRCNN_HOST_DEVICE T iou(const Corners<T>& a, const Corners<T>& b) {
  const T left = a.x1 > b.x1 ? a.x1 : b.x1, top = a.y1 > b.y1 ? a.y1 : b.y1;
  const T right = a.x2 < b.x2 ? a.x2 : b.x2, bottom = a.y2 < b.y2 ? a.y2 : b.y2;
  const T width = right > left ? right - left : T(0), height = bottom > top ? bottom - top : T(0);
  const T both = product(width, height);
  return both / (a.area + b.area - both);
}

inline void check_threshold(double iou_threshold) {
  check(iou_threshold >= 0 && iou_threshold <= 1, "iou_threshold: ", iou_threshold, "; expected a number in [0, 1]");
}

inline void check_score_type(const Tensor& scores) {
  check(scores.scalar_type() == ScalarType::Float || scores.scalar_type() == ScalarType::Double, "scores: dtype ",
        torch::headeronly::toString(scores.scalar_type()), "; expected float32 or float64");
}

// boxes (N, 4), scores (N,), groups (N,) or none.
inline void check_nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                      double iou_threshold) {
  check_shape(boxes, "boxes", {-1, 4}, "(N, 4)");
  check_shape(scores, "scores", {boxes.size(0)}, "(N,), one score per box");
  check_score_type(scores);
  check_same_device(scores, "scores", boxes, "boxes");
  if (groups.has_value()) {
    check_shape(*groups, "groups", {boxes.size(0)}, "(N,), one group per box");
    check_dtype(*groups, "groups", ScalarType::Long);
    check_same_device(*groups, "groups", boxes, "boxes");
  }
  check_threshold(iou_threshold);
}

// boxes (N, P, 4), scores (N, P), groups (P,) or (N, P).
inline void check_padded_nms(const Tensor& boxes, const Tensor& scores, const Tensor& groups, double iou_threshold,
                             int64_t max_keep) {
  check_shape(boxes, "boxes", {-1, -1, 4}, "(N, P, 4)");
  check_shape(scores, "scores", {boxes.size(0), boxes.size(1)}, "(N, P), one score per box");
  check_score_type(scores);
  check_same_device(scores, "scores", boxes, "boxes");
  if (groups.dim() == 1) {
    check_shape(groups, "groups", {boxes.size(1)}, "(P,) or (N, P)");
  } else {
    check_shape(groups, "groups", {boxes.size(0), boxes.size(1)}, "(P,) or (N, P)");
  }
  check_dtype(groups, "groups", ScalarType::Long);
  check_same_device(groups, "groups", boxes, "boxes");
  check_threshold(iou_threshold);
  check(max_keep >= 0, "max_keep: ", max_keep, "; expected a number that is not negative");
}

}  // namespace maskrcnn
