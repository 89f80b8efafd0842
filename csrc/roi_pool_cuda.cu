// RoIPool on CUDA (Fast R-CNN §2.1): a thread per output element, and per gradient element backwards.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <tuple>

#include "cuda.cuh"
#include "roi_pool.h"

namespace maskrcnn {
namespace {

template <typename T>
__global__ void pool(const T* features, MapLayout in, const Accumulator<T>* rois, Accumulator<T> scale, MapLayout out,
                     T* pooled, int32_t* argmax) {
  using Acc = Accumulator<T>;
  MASKRCNN_GRID_STRIDE(i, out.numel()) {
    const Element e = out.element(i);
    const Acc* roi = rois + 5 * e.n;
    const int64_t image = image_of(roi, in.images);
    const auto x = pool_axis(roi[1], roi[3], scale, out.width), y = pool_axis(roi[2], roi[4], scale, out.height);
    Acc best = kNaN<Acc>;
    int64_t position = -1;
    if (image >= 0 && x.finite && y.finite) {
      int64_t x0 = 0, x1 = 0, y0 = 0, y1 = 0;
      pool_window(x, e.x, in.width, &x0, &x1);
      pool_window(y, e.y, in.height, &y0, &y1);
      best = Acc(0);
      for (int64_t v = y0; v < y1; ++v) {
        for (int64_t u = x0; u < x1; ++u) {
          const Acc value = static_cast<Acc>(features[in.at(image, e.c, v * in.width + u)]);
          if (position < 0 || value > best || value != value) {  // NaN wins, as on the CPU
            best = value;
            position = v * in.width + u;
          }
        }
      }
    }
    pooled[i] = static_cast<T>(best);
    argmax[i] = static_cast<int32_t>(position);
  }
}

template <typename T>
__global__ void add_at_argmax(const T* grad, MapLayout out, const int32_t* argmax, MapLayout argmax_layout,
                              const Accumulator<T>* rois, MapLayout in, Accumulator<T>* sums) {
  MASKRCNN_GRID_STRIDE(i, out.numel()) {
    const Element e = out.element(i);
    const int64_t image = image_of(rois + 5 * e.n, in.images);
    const int64_t position = argmax[argmax_layout.at(e.n, e.c, e.y * out.width + e.x)];
    if (image < 0 || position < 0 || position >= in.height * in.width) continue;
    atomicAdd(sums + in.at(image, e.c, position), static_cast<Accumulator<T>>(grad[i]));
  }
}

// The same without atomics: a thread per feature, which looks through the boxes in order for bins whose maximum it is.
template <typename T>
__global__ void gather_from_argmax(const T* grad, MapLayout out, const int32_t* argmax, MapLayout argmax_layout,
                                   const Accumulator<T>* rois, Accumulator<T> scale, MapLayout in, T* result) {
  using Acc = Accumulator<T>;
  MASKRCNN_GRID_STRIDE(i, in.numel()) {
    const Element e = in.element(i);
    const int64_t position = e.y * in.width + e.x;
    Acc sum = 0;
    for (int64_t r = 0; r < out.images; ++r) {
      const Acc* roi = rois + 5 * r;
      if (image_of(roi, in.images) != e.n) continue;
      const auto x = pool_axis(roi[1], roi[3], scale, out.width), y = pool_axis(roi[2], roi[4], scale, out.height);
      if (!x.finite || !y.finite) continue;
      int64_t p0 = 0, p1 = 0, q0 = 0, q1 = 0;
      pool_bins(y, e.y, out.height, &p0, &p1);
      pool_bins(x, e.x, out.width, &q0, &q1);
      for (int64_t p = p0; p < p1; ++p) {
        for (int64_t q = q0; q < q1; ++q) {
          const int64_t bin = p * out.width + q;
          if (argmax[argmax_layout.at(r, e.c, bin)] == position) sum += static_cast<Acc>(grad[out.at(r, e.c, bin)]);
        }
      }
    }
    result[i] = static_cast<T>(sum);
  }
}

std::tuple<Tensor, Tensor> roi_pool(const Tensor& features, const Tensor& rois, double scale, int64_t height,
                                    int64_t width) {
  check_roi_pool(features, rois, height, width);
  return for_floating_type(features, "features", [&](auto zero) -> std::tuple<Tensor, Tensor> {
    using T = decltype(zero);
    using Acc = Accumulator<T>;
    const Tensor from = dense_map(features), boxes = torch::stable::contiguous(rois);
    const MapLayout in = layout_of(from), out{rois.size(0), in.channels, height, width, in.channels_last};
    Tensor pooled = new_map(features, out, features.scalar_type()), argmax = new_map(features, out, ScalarType::Int);
    launch(from, pool<T>, blocks_for(out.numel()), kThreads, from.const_data_ptr<T>(), in, boxes.const_data_ptr<Acc>(),
           static_cast<Acc>(scale), out, pooled.mutable_data_ptr<T>(), argmax.mutable_data_ptr<int32_t>());
    return {pooled, argmax};
  });
}

Tensor roi_pool_backward(const Tensor& grad, const Tensor& argmax, const Tensor& rois, double scale, int64_t images,
                         int64_t in_height, int64_t in_width, bool channels_last, bool deterministic) {
  check_roi_pool_backward(grad, argmax, rois, images, in_height, in_width);
  return for_floating_type(grad, "grad", [&](auto zero) {
    using T = decltype(zero);
    using Acc = Accumulator<T>;
    const Tensor grads = dense_map(grad), positions = dense_map(argmax), boxes = torch::stable::contiguous(rois);
    const MapLayout out = layout_of(grads), in{images, out.channels, in_height, in_width, channels_last};
    const T* from = grads.const_data_ptr<T>();
    const int32_t* position = positions.const_data_ptr<int32_t>();
    const Acc* box = boxes.const_data_ptr<Acc>();
    if (deterministic) {
      Tensor result = new_map(grad, in, grad.scalar_type());
      launch(grads, gather_from_argmax<T>, blocks_for(in.numel()), kThreads, from, out, position, layout_of(positions),
             box, static_cast<Acc>(scale), in, result.mutable_data_ptr<T>());
      return result;
    }
    Tensor sums = new_map(grad, in, scalar_type_of<Acc>);
    torch::stable::zero_(sums);
    launch(grads, add_at_argmax<T>, blocks_for(out.numel()), kThreads, from, out, position, layout_of(positions), box,
           in, sums.mutable_data_ptr<Acc>());
    return std::is_same_v<T, Acc> ? sums : torch::stable::to(sums, grad.scalar_type());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, MASKRCNN_CUDA, m) {
  m.impl("roi_pool", TORCH_BOX(&roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&roi_pool_backward));
}

}  // namespace maskrcnn
