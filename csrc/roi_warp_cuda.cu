// RoIWarp on CUDA (MNC §4): a thread per sample and channel, forwards and for the features' gradient; a block per box
// for the boxes' gradient.
#include <torch/csrc/stable/library.h>

#include <cstdint>

#include "cuda.cuh"
#include "roi_warp.h"

namespace maskrcnn {
namespace {

template <typename T>
__global__ void warp(const T* features, MapLayout in, const Accumulator<T>* rois, Accumulator<T> scale, bool rounded,
                     MapLayout out, T* warped) {
  using Acc = Accumulator<T>;
  MASKRCNN_GRID_STRIDE(i, out.numel()) {
    const Element e = out.element(i);
    const Acc* roi = rois + 5 * e.n;
    const int64_t image = image_of(roi, in.images);
    const auto x_axis = warp_axis(roi[1], roi[3], scale, rounded), y_axis = warp_axis(roi[2], roi[4], scale, rounded);
    if (image < 0 || !x_axis.finite || !y_axis.finite) {
      warped[i] = static_cast<T>(kNaN<Acc>);
      continue;
    }
    const auto x = warp_taps(x_axis, e.x, out.width, in.width), y = warp_taps(y_axis, e.y, out.height, in.height);
    Acc value = 0;
    if (x.on_map && y.on_map) {
      const auto pixel = [&](int64_t v, int64_t u) {
        return static_cast<Acc>(features[in.at(image, e.c, v * in.width + u)]);
      };
      value = y.weight_low * (x.weight_low * pixel(y.low, x.low) + x.weight_high * pixel(y.low, x.high)) +
              y.weight_high * (x.weight_low * pixel(y.high, x.low) + x.weight_high * pixel(y.high, x.high));
    }
    warped[i] = static_cast<T>(value);
  }
}

template <typename T>
__global__ void add_to_features(const T* grad, MapLayout out, const Accumulator<T>* rois, Accumulator<T> scale,
                                bool rounded, MapLayout in, Accumulator<T>* sums) {
  using Acc = Accumulator<T>;
  MASKRCNN_GRID_STRIDE(i, out.numel()) {
    const Element e = out.element(i);
    const Acc* roi = rois + 5 * e.n;
    const int64_t image = image_of(roi, in.images);
    const auto x_axis = warp_axis(roi[1], roi[3], scale, rounded), y_axis = warp_axis(roi[2], roi[4], scale, rounded);
    if (image < 0 || !x_axis.finite || !y_axis.finite) continue;
    const auto x = warp_taps(x_axis, e.x, out.width, in.width), y = warp_taps(y_axis, e.y, out.height, in.height);
    if (!x.on_map || !y.on_map) continue;
    const Acc value = static_cast<Acc>(grad[i]);
    const auto add = [&](int64_t v, int64_t u, Acc weight) {
      if (weight != Acc(0)) atomicAdd(sums + in.at(image, e.c, v * in.width + u), weight * value);
    };
    add(y.low, x.low, y.weight_low * x.weight_low);
    add(y.low, x.high, y.weight_low * x.weight_high);
    add(y.high, x.low, y.weight_high * x.weight_low);
    add(y.high, x.high, y.weight_high * x.weight_high);
  }
}

// What pixel `at` weighs in a sample.
template <typename Acc>
__device__ Acc weight_of(const WarpTaps<Acc>& taps, int64_t at) {
  if (!taps.on_map) return Acc(0);
  return (taps.low == at ? taps.weight_low : Acc(0)) + (taps.high == at ? taps.weight_high : Acc(0));
}

// The same without atomics: a thread per feature, which looks through the boxes in order for samples that read it.
template <typename T>
__global__ void gather_for_features(const T* grad, MapLayout out, const Accumulator<T>* rois, Accumulator<T> scale,
                                    bool rounded, MapLayout in, T* result) {
  using Acc = Accumulator<T>;
  MASKRCNN_GRID_STRIDE(i, in.numel()) {
    const Element e = in.element(i);
    Acc sum = 0;
    for (int64_t r = 0; r < out.images; ++r) {
      const Acc* roi = rois + 5 * r;
      if (image_of(roi, in.images) != e.n) continue;
      const auto x = warp_axis(roi[1], roi[3], scale, rounded), y = warp_axis(roi[2], roi[4], scale, rounded);
      if (!x.finite || !y.finite) continue;
      int64_t p0 = 0, p1 = 0, q0 = 0, q1 = 0;
      warp_samples(y, e.y, out.height, &p0, &p1);
      warp_samples(x, e.x, out.width, &q0, &q1);
      for (int64_t p = p0; p < p1; ++p) {
        const Acc row = weight_of(warp_taps(y, p, out.height, in.height), e.y);
        if (row == Acc(0)) continue;
        for (int64_t q = q0; q < q1; ++q) {
          const Acc weight = row * weight_of(warp_taps(x, q, out.width, in.width), e.x);
          if (weight != Acc(0)) sum += weight * static_cast<Acc>(grad[out.at(r, e.c, p * out.width + q)]);
        }
      }
    }
    result[i] = static_cast<T>(sum);
  }
}

// Eq. 9, a block per box: each thread sums its share of samples and channels, then the block sums its threads.
template <typename T>
__global__ void corner_sums(const T* grad, MapLayout out, const T* features, MapLayout in, const Accumulator<T>* rois,
                            Accumulator<T> scale, bool rounded, Accumulator<T>* result) {
  using Acc = Accumulator<T>;
  __shared__ Acc sums[4][kThreads];  // x1, y1, x2, y2
  const int64_t row = out.channels * out.height * out.width;
  for (int64_t r = blockIdx.x; r < out.images; r += gridDim.x) {
    const Acc* roi = rois + 5 * r;
    const int64_t image = image_of(roi, in.images);
    const auto x_axis = warp_axis(roi[1], roi[3], scale, rounded), y_axis = warp_axis(roi[2], roi[4], scale, rounded);
    Acc x1 = 0, y1 = 0, x2 = 0, y2 = 0;
    if (image >= 0 && x_axis.finite && y_axis.finite) {
      for (int64_t i = threadIdx.x; i < row; i += kThreads) {
        const Element e = out.element(r * row + i);
        const auto x = warp_taps(x_axis, e.x, out.width, in.width), y = warp_taps(y_axis, e.y, out.height, in.height);
        if (!x.on_map || !y.on_map) continue;
        const auto pixel = [&](int64_t v, int64_t u) {
          return static_cast<Acc>(features[in.at(image, e.c, v * in.width + u)]);
        };
        const Acc a = pixel(y.low, x.low), b = pixel(y.low, x.high);
        const Acc c = pixel(y.high, x.low), d = pixel(y.high, x.high);
        const Acc g = static_cast<Acc>(grad[r * row + i]);
        const Acc along_x = g * (y.weight_low * (x.slope_low * a + x.slope_high * b) +
                                 y.weight_high * (x.slope_low * c + x.slope_high * d));
        const Acc along_y = g * (x.weight_low * (y.slope_low * a + y.slope_high * c) +
                                 x.weight_high * (y.slope_low * b + y.slope_high * d));
        x1 += (Acc(1) - x.ratio) * along_x;
        y1 += (Acc(1) - y.ratio) * along_y;
        x2 += x.ratio * along_x;
        y2 += y.ratio * along_y;
      }
    }
    const int thread = threadIdx.x;
    sums[0][thread] = x1;
    sums[1][thread] = y1;
    sums[2][thread] = x2;
    sums[3][thread] = y2;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (thread < half) {
        for (int k = 0; k < 4; ++k) sums[k][thread] += sums[k][thread + half];
      }
    }
    if (thread == 0) {
      result[5 * r] = Acc(0);
      for (int k = 0; k < 4; ++k) result[5 * r + 1 + k] = scale * sums[k][0];
    }
    __syncthreads();  // before the next box's sums
  }
}

Tensor roi_warp(const Tensor& features, const Tensor& rois, double scale, int64_t height, int64_t width,
                bool rounded) {
  check_roi_warp(features, rois, height, width);
  return for_floating_type(features, "features", [&](auto zero) {
    using T = decltype(zero);
    using Acc = Accumulator<T>;
    const Tensor from = dense_map(features), boxes = torch::stable::contiguous(rois);
    const MapLayout in = layout_of(from), out{rois.size(0), in.channels, height, width, in.channels_last};
    Tensor warped = new_map(features, out, features.scalar_type());
    launch(from, warp<T>, blocks_for(out.numel()), kThreads, from.const_data_ptr<T>(), in, boxes.const_data_ptr<Acc>(),
           static_cast<Acc>(scale), rounded, out, warped.mutable_data_ptr<T>());
    return warped;
  });
}

Tensor roi_warp_backward_input(const Tensor& grad, const Tensor& rois, double scale, int64_t images,
                               int64_t in_height, int64_t in_width, bool rounded, bool channels_last,
                               bool deterministic) {
  check_grad_and_rois(grad, rois, images, in_height, in_width);
  return for_floating_type(grad, "grad", [&](auto zero) {
    using T = decltype(zero);
    using Acc = Accumulator<T>;
    const Tensor grads = dense_map(grad), boxes = torch::stable::contiguous(rois);
    const MapLayout out = layout_of(grads), in{images, out.channels, in_height, in_width, channels_last};
    const T* from = grads.const_data_ptr<T>();
    const Acc* box = boxes.const_data_ptr<Acc>();
    if (deterministic) {
      Tensor result = new_map(grad, in, grad.scalar_type());
      launch(grads, gather_for_features<T>, blocks_for(in.numel()), kThreads, from, out, box, static_cast<Acc>(scale),
             rounded, in, result.mutable_data_ptr<T>());
      return result;
    }
    Tensor sums = new_map(grad, in, scalar_type_of<Acc>);
    torch::stable::zero_(sums);
    launch(grads, add_to_features<T>, blocks_for(out.numel()), kThreads, from, out, box, static_cast<Acc>(scale),
           rounded, in, sums.mutable_data_ptr<Acc>());
    return std::is_same_v<T, Acc> ? sums : torch::stable::to(sums, grad.scalar_type());
  });
}

Tensor roi_warp_backward_rois(const Tensor& grad, const Tensor& features, const Tensor& rois, double scale,
                              bool rounded) {
  check_roi_warp_backward_rois(grad, features, rois);
  return for_floating_type(features, "features", [&](auto zero) {
    using T = decltype(zero);
    using Acc = Accumulator<T>;
    const Tensor grads = dense_map(grad), from = dense_map(features), boxes = torch::stable::contiguous(rois);
    const MapLayout out = layout_of(grads);
    Tensor result = torch::stable::new_empty(boxes, {out.images, 5});
    const int64_t blocks = std::min<int64_t>(out.images, 1 << 20);
    launch(grads, corner_sums<T>, blocks, kThreads, grads.const_data_ptr<T>(), out, from.const_data_ptr<T>(),
           layout_of(from), boxes.const_data_ptr<Acc>(), static_cast<Acc>(scale), rounded,
           result.mutable_data_ptr<Acc>());
    return result;
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, MASKRCNN_CUDA, m) {
  m.impl("roi_warp", TORCH_BOX(&roi_warp));
  m.impl("roi_warp_backward_input", TORCH_BOX(&roi_warp_backward_input));
  m.impl("roi_warp_backward_rois", TORCH_BOX(&roi_warp_backward_rois));
}

}  // namespace maskrcnn
