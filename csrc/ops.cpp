// Every operator's schema. Kernels register themselves beside their code; fakes and gradients are in maskrcnn/ops.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(maskrcnn, m) {
  // features (N, C, H, W), rois (R, 5) -> (R, C, height, width)
  m.def(
      "roi_align(Tensor input, Tensor rois, float scale, SymInt height, SymInt width, int sampling_ratio, "
      "bool aligned) -> Tensor");
  // grad (R, C, h, w) -> the gradient of the input (images, C, in_height, in_width)
  m.def(
      "roi_align_backward(Tensor grad, Tensor rois, float scale, SymInt images, SymInt in_height, SymInt in_width, "
      "int sampling_ratio, bool aligned, bool channels_last) -> Tensor");
  // boxes (N, 4), scores (N,), groups int64 (N,), or none: all boxes compete -> int64 indices of the kept boxes, by
  // falling score
  m.def("nms(Tensor boxes, Tensor scores, Tensor? groups, float iou_threshold) -> Tensor");
  // boxes (N, P, 4), scores (N, P), groups int64 (P,) or (N, P) -> the first max_keep that are kept of each image, int64
  // (N, max_keep), by falling score, then -1; and their number, int64 (N,)
  m.def(
      "padded_nms(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold, SymInt max_keep) "
      "-> (Tensor, Tensor)");
  // boxes (N, 4), scores (N,) of their dtype, groups int64 (N,) -> int64 indices of the kept boxes, by falling new
  // score, and those scores
  m.def(
      "soft_nms(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold, bool gaussian, float sigma, "
      "float min_score) -> (Tensor, Tensor)");
}
