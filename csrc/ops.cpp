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
  // heatmaps (R, K, m, m), boxes (R, 4) -> x, y, logit (R, K, 3)
  m.def("decode_keypoints(Tensor heatmaps, Tensor boxes) -> Tensor");
  // groups: int64 (N,), or empty when all boxes compete -> int64 indices of the kept boxes, by falling score
  m.def("nms(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold) -> Tensor");
}
