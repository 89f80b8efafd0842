// Every operator's schema. Kernels register themselves beside their code; fakes and gradients are in maskrcnn/ops.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(maskrcnn, m) {
  // ---- regions: csrc/roi_align.h, csrc/roi_pool.h, csrc/roi_warp.h ----
  // features: (N, C, H_k, W_k) of each level; rois (R, 5); level_rule (k0, canonical size, epsilon, finest level, extent)
  // -> (R, C, height, width), each box from its own level, or without a rule (L * R, C, height, width), from all.
  m.def(
      "roi_align(Tensor[] features, Tensor rois, float[] scales, SymInt height, SymInt width, int sampling_ratio, "
      "bool aligned, bool rounded, bool maximum, float[]? level_rule) -> Tensor");
  // grad (R or L * R, C, h, w), sizes (N, H_0, W_0, H_1, ...) -> the gradient of each level; features for maximum only
  m.def(
      "roi_align_backward(Tensor grad, Tensor[] features, Tensor rois, SymInt[] sizes, float[] scales, "
      "int sampling_ratio, bool aligned, bool rounded, bool maximum, float[]? level_rule, bool channels_last, "
      "bool deterministic) -> Tensor[]");
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

  // ---- suppression: csrc/nms.h, csrc/soft_nms.h ----
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

  // ---- masks: csrc/paste.h, csrc/rle_cpu.cpp, csrc/rasterise.h ----
  // masks (D, m, m), boxes (D, 4) -> bool (D, height, width)
  m.def("paste_masks(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold) -> Tensor");
  // The same as runs down the columns: all masks' run lengths, and how many each mask has, int64 (D,). CPU.
  m.def("paste_runs(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold) -> (Tensor, Tensor)");
  // The same in two steps, CUDA: how many runs begin in each column, int64 (D, width), and where each begins,
  // int64 (total,), x * height + y; stops int64 (D, width) is the running sum of the former.
  m.def("paste_run_counts(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold) -> Tensor");
  m.def(
      "paste_run_starts(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold, Tensor stops, "
      "SymInt total) -> Tensor");
  // counts int64 (K,), lengths int64 (n,) of each mask -> COCO's characters uint8, how many each mask has, int64 (n,)
  m.def("compress_counts(Tensor counts, Tensor lengths) -> (Tensor, Tensor)");
  // text uint8 (B,), lengths int64 (n,) of each mask -> counts int64, how many each mask has, int64 (n,)
  m.def("decompress_counts(Tensor text, Tensor lengths) -> (Tensor, Tensor)");
  // bitmaps bool (n, h, w), corners int64 (n, 2) in a frame -> counts and lengths, as compress_counts takes them
  m.def("encode_bitmaps(Tensor bitmaps, Tensor corners, SymInt height, SymInt width) -> (Tensor, Tensor)");
  // counts, lengths -> runs int32 (N, 3), column, top, bottom, and offsets int64 (n + 1,)
  m.def("runs_of_counts(Tensor counts, Tensor lengths, SymInt height, SymInt width) -> (Tensor, Tensor)");
  // points (T, 2), ring_offsets int64 (rings + 1,), object_offsets int64 (G + 1,), index int64 (R,), boxes (R, 4)
  // -> bool (R, size, size)
  m.def(
      "crop_polygons(Tensor points, Tensor ring_offsets, Tensor object_offsets, Tensor index, Tensor boxes, "
      "SymInt size) -> Tensor");
  // queries (R, P, 2) -> bool (R, P)
  m.def(
      "points_in_polygons(Tensor points, Tensor ring_offsets, Tensor object_offsets, Tensor index, Tensor queries) "
      "-> Tensor");
  // runs int32 (N, 3), offsets int64 (G + 1,), index int64 (R,), boxes float64 (R, 4) -> float64 (R, height, width)
  m.def(
      "cover_cells(Tensor runs, Tensor offsets, Tensor index, Tensor boxes, SymInt height, SymInt width) -> Tensor");
  // points (R, P, 2) -> float32 (R, P)
  m.def(
      "sample_runs(Tensor runs, Tensor offsets, Tensor index, Tensor points, SymInt height, SymInt width) -> Tensor");

  // ---- keypoints: csrc/keypoints.h ----
  // heatmaps (R, K, m, m), boxes (R, 4) -> x, y, logit (R, K, 3)
  m.def("decode_keypoints(Tensor heatmaps, Tensor boxes) -> Tensor");
}
