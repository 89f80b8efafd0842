// Every operator's schema. Kernels register themselves beside their code; fakes and gradients are in maskrcnn/ops.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(maskrcnn, m) {
  // features: (N, C, H_k, W_k) of each level; rois (R, 5); level_rule (k0, canonical size, epsilon, finest level)
  // -> (R, C, height, width), each box from its own level, or without a rule (L * R, C, height, width), from all.
  m.def(
      "roi_align(Tensor[] features, Tensor rois, float[] scales, SymInt height, SymInt width, int sampling_ratio, "
      "bool aligned, bool rounded, bool maximum, float[]? level_rule) -> Tensor");
  // grad (R or L * R, C, h, w), sizes (N, H_0, W_0, H_1, ...) -> the gradient of each level; features for maximum only
  m.def(
      "roi_align_backward(Tensor grad, Tensor[] features, Tensor rois, SymInt[] sizes, float[] scales, "
      "int sampling_ratio, bool aligned, bool rounded, bool maximum, float[]? level_rule, bool channels_last, "
      "bool deterministic) -> Tensor[]");
  // groups: int64 (N,), or empty when all boxes compete -> int64 indices of the kept boxes, by falling score
  m.def("nms(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold) -> Tensor");
}
