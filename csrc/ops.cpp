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
  // features (N, C, H, W), rois (R, 5) -> (R, C, height, width) and int32 argmax of the same shape: the pixel y * W + x
  // that each value came from, or -1
  m.def("roi_pool(Tensor input, Tensor rois, float scale, SymInt height, SymInt width) -> (Tensor, Tensor)");
  // grad (R, C, h, w) -> the gradient of the input (images, C, in_height, in_width)
  m.def(
      "roi_pool_backward(Tensor grad, Tensor argmax, Tensor rois, float scale, SymInt images, SymInt in_height, "
      "SymInt in_width, bool channels_last, bool deterministic) -> Tensor");
  // features (N, C, H, W), rois (R, 5) -> (R, C, height, width)
  m.def("roi_warp(Tensor input, Tensor rois, float scale, SymInt height, SymInt width, bool rounded) -> Tensor");
  // grad (R, C, h, w) -> the gradient of the input (images, C, in_height, in_width)
  m.def(
      "roi_warp_backward_input(Tensor grad, Tensor rois, float scale, SymInt images, SymInt in_height, "
      "SymInt in_width, bool rounded, bool channels_last, bool deterministic) -> Tensor");
  // grad (R, C, h, w), features (N, C, H, W) -> the gradient of the rois (R, 5)
  m.def("roi_warp_backward_rois(Tensor grad, Tensor input, Tensor rois, float scale, bool rounded) -> Tensor");
  // groups: int64 (N,), or empty when all boxes compete -> int64 indices of the kept boxes, by falling score
  m.def("nms(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold) -> Tensor");
}
