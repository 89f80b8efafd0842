// Pasted masks on CUDA: bitmaps by pixels, runs by columns.
#include <torch/csrc/stable/library.h>

#include "cuda.cuh"
#include "paste.h"

namespace maskrcnn {
namespace {

// What all kernels read.
template <typename T>
struct Source {
  using Acc = Accumulator<T>;

  const T* masks;
  const Acc* boxes;
  int64_t count, cells, height, width;
  Acc threshold;

  MASKRCNN_HOST_DEVICE PasteAxis<Acc> across(int64_t d) const {
    return paste_axis(boxes[4 * d], boxes[4 * d + 2], cells);
  }
  MASKRCNN_HOST_DEVICE PasteAxis<Acc> down(int64_t d) const {
    return paste_axis(boxes[4 * d + 1], boxes[4 * d + 3], cells);
  }
  MASKRCNN_HOST_DEVICE Acc cell(int64_t d, int64_t v, int64_t u) const {
    const bool within = v >= 0 && v < cells && u >= 0 && u < cells;
    return within ? static_cast<Acc>(masks[(d * cells + v) * cells + u]) : Acc(0);
  }
  MASKRCNN_HOST_DEVICE Acc spread(int64_t d, int64_t v, const PasteTap<Acc>& x) const {
    return blend(x.weight_low, cell(d, v, x.cell), x.weight_high, cell(d, v, x.cell + 1));
  }
  MASKRCNN_HOST_DEVICE bool at(int64_t d, const PasteTap<Acc>& y, const PasteTap<Acc>& x) const {
    return blend(y.weight_low, spread(d, y.cell, x), y.weight_high, spread(d, y.cell + 1, x)) >= threshold;
  }

  // Calls body(row) for each row of a column at which a run begins, the order of the pixels being down the columns.
  template <typename Body>
  MASKRCNN_HOST_DEVICE void for_starts(int64_t d, int64_t column, Body body) const {
    if (height == 0) return;
    const PasteAxis<Acc> horizontal = across(d), vertical = down(d);
    PasteTap<Acc> x, y;
    // The last pixel of the column before.
    bool before = column > 0 && paste_tap(horizontal, column - 1, cells, &x) &&
                  paste_tap(vertical, height - 1, cells, &y) && at(d, y, x);
    int64_t first = 0, last = 0;
    if (paste_tap(horizontal, column, cells, &x)) {
      paste_window(vertical, boxes[4 * d + 3], cells, height, &first, &last);
    }
    if (before && (first > 0 || last == 0)) {  // the window does not reach the top
      body(0);
      before = false;
    }
    int64_t held = -3;  // no cell: low and high hold nothing yet
    Acc low = 0, high = 0;
    for (int64_t row = first; row < last; ++row) {
      bool in = false;
      if (paste_tap(vertical, row, cells, &y)) {
        if (y.cell != held) {
          low = spread(d, y.cell, x);
          high = spread(d, y.cell + 1, x);
          held = y.cell;
        }
        in = blend(y.weight_low, low, y.weight_high, high) >= threshold;
      }
      if (in != before) body(row);
      before = in;
    }
    if (before && last < height) body(last);
  }
};

template <typename T>
Source<T> source_of(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold) {
  using Acc = Accumulator<T>;
  return {masks.const_data_ptr<T>(), boxes.const_data_ptr<Acc>(), masks.size(0), masks.size(1), height, width,
          static_cast<Acc>(threshold)};
}

// Eight pixels a thread, in the order of memory: one store where all of them are there, and the row's tap once.
constexpr int kPixels = 8;

template <typename T>
__global__ void paste_kernel(Source<T> source, uint8_t* out) {
  using Acc = Accumulator<T>;
  const int64_t total = source.count * source.height * source.width;
  MASKRCNN_GRID_STRIDE(group, (total + kPixels - 1) / kPixels) {
    const int64_t start = kPixels * group;
    const int here = total - start < kPixels ? static_cast<int>(total - start) : kPixels;
    int64_t line = start / source.width, column = start - line * source.width;
    int64_t d = line / source.height;
    PasteAxis<Acc> across = source.across(d);
    PasteTap<Acc> x, y;
    bool in_row = paste_tap(source.down(d), line - d * source.height, source.cells, &y);
    uint64_t all = 0;
    uint8_t* pixel = reinterpret_cast<uint8_t*>(&all);
    for (int i = 0; i < here; ++i) {
      if (column == source.width) {
        column = 0;
        d = ++line / source.height;
        across = source.across(d);
        in_row = paste_tap(source.down(d), line - d * source.height, source.cells, &y);
      }
      pixel[i] = in_row && paste_tap(across, column, source.cells, &x) && source.at(d, y, x) ? 1 : 0;
      ++column;
    }
    if (here == kPixels) {
      *reinterpret_cast<uint64_t*>(out + start) = all;
    } else {
      for (int i = 0; i < here; ++i) out[start + i] = pixel[i];
    }
  }
}

template <typename T>
__global__ void count_kernel(Source<T> source, int64_t* counts) {
  MASKRCNN_GRID_STRIDE(i, source.count * source.width) {
    int64_t found = 0;
    source.for_starts(i / source.width, i % source.width, [&](int64_t) { ++found; });
    counts[i] = found;
  }
}

// Column i has the places stops[i - 1] to stops[i] - 1.
template <typename T>
__global__ void starts_kernel(Source<T> source, const int64_t* stops, int64_t total, int64_t* starts) {
  MASKRCNN_GRID_STRIDE(i, source.count * source.width) {
    const int64_t column = i % source.width;
    int64_t to = i > 0 ? stops[i - 1] : 0;
    const int64_t end = stops[i] < total ? stops[i] : total;  // whatever the stops say, nothing beyond
    source.for_starts(i / source.width, column, [&](int64_t row) {
      if (to >= 0 && to < end) starts[to] = column * source.height + row;
      ++to;
    });
  }
}

Tensor paste_masks(const Tensor& masks_tensor, const Tensor& boxes_tensor, int64_t height, int64_t width,
                   double threshold) {
  check_paste(masks_tensor, boxes_tensor, height, width, threshold);
  const Tensor masks = torch::stable::contiguous(masks_tensor), boxes = torch::stable::contiguous(boxes_tensor);
  Tensor pasted = torch::stable::new_empty(masks, {masks.size(0), height, width}, ScalarType::Bool);
  if (pasted.numel() == 0) return pasted;
  for_floating_type(masks, "masks", [&](auto zero) {
    using T = decltype(zero);
    launch(masks, paste_kernel<T>, blocks_for((pasted.numel() + kPixels - 1) / kPixels), kThreads,
           source_of<T>(masks, boxes, height, width, threshold),
           reinterpret_cast<uint8_t*>(pasted.mutable_data_ptr<bool>()));
  });
  return pasted;
}

Tensor paste_run_counts(const Tensor& masks_tensor, const Tensor& boxes_tensor, int64_t height, int64_t width,
                        double threshold) {
  check_paste(masks_tensor, boxes_tensor, height, width, threshold);
  const Tensor masks = torch::stable::contiguous(masks_tensor), boxes = torch::stable::contiguous(boxes_tensor);
  Tensor counts = torch::stable::new_empty(masks, {masks.size(0), width}, ScalarType::Long);
  for_floating_type(masks, "masks", [&](auto zero) {
    using T = decltype(zero);
    launch(masks, count_kernel<T>, blocks_for(counts.numel()), kThreads,
           source_of<T>(masks, boxes, height, width, threshold), counts.mutable_data_ptr<int64_t>());
  });
  return counts;
}

Tensor paste_run_starts(const Tensor& masks_tensor, const Tensor& boxes_tensor, int64_t height, int64_t width,
                        double threshold, const Tensor& stops_tensor, int64_t total) {
  check_paste(masks_tensor, boxes_tensor, height, width, threshold);
  check_shape(stops_tensor, "stops", {masks_tensor.size(0), width}, "(D, width)");
  check_dtype(stops_tensor, "stops", ScalarType::Long);
  check_same_device(stops_tensor, "stops", masks_tensor, "masks");
  check(total >= 0, "total: ", total, "; expected the last of stops");
  const Tensor masks = torch::stable::contiguous(masks_tensor), boxes = torch::stable::contiguous(boxes_tensor);
  const Tensor stops = torch::stable::contiguous(stops_tensor);
  Tensor starts = torch::stable::new_zeros(masks, {total}, ScalarType::Long);
  for_floating_type(masks, "masks", [&](auto zero) {
    using T = decltype(zero);
    launch(masks, starts_kernel<T>, blocks_for(stops.numel()), kThreads,
           source_of<T>(masks, boxes, height, width, threshold), stops.const_data_ptr<int64_t>(), total,
           starts.mutable_data_ptr<int64_t>());
  });
  return starts;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, MASKRCNN_CUDA, m) {
  m.impl("paste_masks", TORCH_BOX(&paste_masks));
  m.impl("paste_run_counts", TORCH_BOX(&paste_run_counts));
  m.impl("paste_run_starts", TORCH_BOX(&paste_run_starts));
}

}  // namespace maskrcnn
