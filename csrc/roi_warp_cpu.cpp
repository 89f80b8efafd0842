// RoIWarp on the CPU (MNC §4): per box, the taps of its rows and columns once; per sample, a weighted sum of four
// feature vectors over contiguous channels.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "cpu.h"
#include "roi_warp.h"

namespace maskrcnn {
namespace {

// The taps of one box.
template <typename Acc>
struct Taps {
  std::vector<WarpTaps<Acc>> rows, cols;

  Taps(int64_t height, int64_t width) : rows(height), cols(width) {}

  // False: the box is not finite.
  bool read(const Acc* roi, Acc scale, bool rounded, int64_t map_height, int64_t map_width) {
    const auto x = warp_axis(roi[1], roi[3], scale, rounded), y = warp_axis(roi[2], roi[4], scale, rounded);
    if (!x.finite || !y.finite) return false;
    fill(y, map_height, rows);
    fill(x, map_width, cols);
    return true;
  }

 private:
  static void fill(const WarpAxis<Acc>& axis, int64_t size, std::vector<WarpTaps<Acc>>& taps) {
    const int64_t samples = static_cast<int64_t>(taps.size());
    for (int64_t p = 0; p < samples; ++p) taps[p] = warp_taps(axis, p, samples, size);
  }
};

// A map of vectors of channels: pixel (y, x) starts at (y * width + x) * stride.
template <typename T>
struct Map {
  T* data;
  int64_t width, stride;

  MASKRCNN_INLINE T* at(int64_t y, int64_t x) const { return data + (y * width + x) * stride; }
};

// The samples of one box, (h * w, channels).
template <typename T>
struct Gather {
  using Acc = Accumulator<T>;

  static MASKRCNN_INLINE void run(Map<const T> image, int64_t channels, const Taps<Acc>* taps, Acc* out) {
    for (const WarpTaps<Acc>& y : taps->rows) {
      for (const WarpTaps<Acc>& x : taps->cols) {
        if (y.on_map && x.on_map) {
          sum(image.at(y.low, x.low), image.at(y.low, x.high), image.at(y.high, x.low), image.at(y.high, x.high), y, x,
              channels, out);
        } else {
          std::fill(out, out + channels, Acc(0));
        }
        out += channels;
      }
    }
  }

 private:
  static MASKRCNN_INLINE void sum(const T* MASKRCNN_RESTRICT low_low, const T* MASKRCNN_RESTRICT low_high,
                                  const T* MASKRCNN_RESTRICT high_low, const T* MASKRCNN_RESTRICT high_high,
                                  const WarpTaps<Acc>& y, const WarpTaps<Acc>& x, int64_t channels,
                                  Acc* MASKRCNN_RESTRICT out) {
    const Acc a = y.weight_low * x.weight_low, b = y.weight_low * x.weight_high;
    const Acc c = y.weight_high * x.weight_low, d = y.weight_high * x.weight_high;
    for (int64_t i = 0; i < channels; ++i) {
      out[i] = a * static_cast<Acc>(low_low[i]) + b * static_cast<Acc>(low_high[i]) +
               c * static_cast<Acc>(high_low[i]) + d * static_cast<Acc>(high_high[i]);
    }
  }
};

// The transpose: the samples' gradients, (h * w, channels), added to the map's.
template <typename Acc>
struct Scatter {
  static MASKRCNN_INLINE void run(Map<const Acc> grad, int64_t channels, const Taps<Acc>* taps, Map<Acc> image) {
    const Acc* from = grad.data;
    for (const WarpTaps<Acc>& y : taps->rows) {
      for (const WarpTaps<Acc>& x : taps->cols) {
        if (y.on_map && x.on_map) {
          add(from, y.weight_low * x.weight_low, channels, image.at(y.low, x.low));
          add(from, y.weight_low * x.weight_high, channels, image.at(y.low, x.high));
          add(from, y.weight_high * x.weight_low, channels, image.at(y.high, x.low));
          add(from, y.weight_high * x.weight_high, channels, image.at(y.high, x.high));
        }
        from += grad.stride;
      }
    }
  }

 private:
  static MASKRCNN_INLINE void add(const Acc* MASKRCNN_RESTRICT grad, Acc weight, int64_t channels,
                                  Acc* MASKRCNN_RESTRICT out) {
    if (weight == Acc(0)) return;
    for (int64_t i = 0; i < channels; ++i) out[i] += weight * grad[i];
  }
};

// Per channel, the sums over one box's samples of grad * dF/dx and grad * dF/dy (Eq. 9) as the first and the second
// corner share them: `sums` is (4, channels) for x1, y1, x2, y2.
template <typename T>
struct CornerSums {
  using Acc = Accumulator<T>;

  static MASKRCNN_INLINE void run(const T* grad, Map<const T> image, int64_t channels, const Taps<Acc>* taps,
                                  Acc* sums) {
    std::fill(sums, sums + 4 * channels, Acc(0));
    for (const WarpTaps<Acc>& y : taps->rows) {
      for (const WarpTaps<Acc>& x : taps->cols) {
        if (y.on_map && x.on_map) {
          add(grad, image.at(y.low, x.low), image.at(y.low, x.high), image.at(y.high, x.low),
              image.at(y.high, x.high), y, x, channels, sums, sums + channels, sums + 2 * channels,
              sums + 3 * channels);
        }
        grad += channels;
      }
    }
  }

 private:
  static MASKRCNN_INLINE void add(const T* MASKRCNN_RESTRICT grad, const T* MASKRCNN_RESTRICT low_low,
                                  const T* MASKRCNN_RESTRICT low_high, const T* MASKRCNN_RESTRICT high_low,
                                  const T* MASKRCNN_RESTRICT high_high, const WarpTaps<Acc>& y,
                                  const WarpTaps<Acc>& x, int64_t channels, Acc* MASKRCNN_RESTRICT x1,
                                  Acc* MASKRCNN_RESTRICT y1, Acc* MASKRCNN_RESTRICT x2, Acc* MASKRCNN_RESTRICT y2) {
    const Acc wy0 = y.weight_low, wy1 = y.weight_high, sy0 = y.slope_low, sy1 = y.slope_high;
    const Acc wx0 = x.weight_low, wx1 = x.weight_high, sx0 = x.slope_low, sx1 = x.slope_high;
    const Acc rx = x.ratio, ry = y.ratio;
    for (int64_t i = 0; i < channels; ++i) {
      const Acc a = static_cast<Acc>(low_low[i]), b = static_cast<Acc>(low_high[i]);
      const Acc c = static_cast<Acc>(high_low[i]), d = static_cast<Acc>(high_high[i]);
      const Acc g = static_cast<Acc>(grad[i]);
      const Acc along_x = g * (wy0 * (sx0 * a + sx1 * b) + wy1 * (sx0 * c + sx1 * d));
      const Acc along_y = g * (wx0 * (sy0 * a + sy1 * c) + wx1 * (sy0 * b + sy1 * d));
      x1[i] += (Acc(1) - rx) * along_x;
      y1[i] += (Acc(1) - ry) * along_y;
      x2[i] += rx * along_x;
      y2[i] += ry * along_y;
    }
  }
};

template <typename T>
Tensor forward(const Tensor& input, const Tensor& rois_tensor, double scale, int64_t out_h, int64_t out_w,
               bool rounded) {
  using Acc = Accumulator<T>;
  constexpr int64_t kBlock = 64;  // of channels, whose samples stay in the cache until they are transposed
  const int64_t count = rois_tensor.size(0), samples = out_h * out_w;
  const int64_t images = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  const bool last = is_channels_last(input);
  Tensor output = last ? new_channels_last(input, count, channels, out_h, out_w)
                       : torch::stable::new_empty(input, {count, channels, out_h, out_w});
  const Tensor rois_rows = torch::stable::contiguous(rois_tensor);
  const Acc* rois = rois_rows.const_data_ptr<Acc>();
  check_images(rois, count, images);
  const Tensor features = to_channels_last<T>(input);
  const T* from = features.const_data_ptr<T>();
  T* to = output.mutable_data_ptr<T>();

  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Taps<Acc> taps(out_h, out_w);
    std::vector<Acc> tile(samples * std::min(kBlock, channels));
    for (int64_t r = begin; r < end; ++r) {
      T* row = to + r * samples * channels;
      if (!taps.read(rois + 5 * r, static_cast<Acc>(scale), rounded, height, width)) {
        std::fill(row, row + samples * channels, static_cast<T>(kNaN<Acc>));
        continue;
      }
      const T* image = from + static_cast<int64_t>(rois[5 * r]) * height * width * channels;
      if constexpr (std::is_same_v<T, Acc>) {
        if (last) {
          dispatch<Gather<T>>(Map<const T>{image, width, channels}, channels, &taps, row);
          continue;
        }
      }
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int64_t block = std::min(kBlock, channels - c);
        dispatch<Gather<T>>(Map<const T>{image + c, width, channels}, block, &taps, tile.data());
        if (last) {
          for (int64_t s = 0; s < samples; ++s) {
            for (int64_t i = 0; i < block; ++i) row[s * channels + c + i] = static_cast<T>(tile[s * block + i]);
          }
        } else {
          transpose(tile.data(), block, row + c * samples, samples, samples, block);
        }
      }
    }
  });
  return output;
}

template <typename T>
Tensor backward_input(const Tensor& grad_tensor, const Tensor& rois_tensor, double scale, int64_t images,
                      int64_t height, int64_t width, bool rounded, bool channels_last) {
  using Acc = Accumulator<T>;
  const int64_t count = rois_tensor.size(0), channels = grad_tensor.size(1), pixels = height * width;
  const int64_t out_h = grad_tensor.size(2), out_w = grad_tensor.size(3), samples = out_h * out_w;
  const bool last = is_channels_last(grad_tensor);
  const Tensor grad = last ? grad_tensor : torch::stable::contiguous(grad_tensor);
  const Tensor rois_rows = torch::stable::contiguous(rois_tensor);
  const T* from = grad.const_data_ptr<T>();
  const Acc* rois = rois_rows.const_data_ptr<Acc>();
  check_images(rois, count, images);

  // Summed as NHWC in float or double. A task owns a block of an image's channels and takes the boxes in order: the
  // order of each sum depends neither on the blocks nor on the number of threads.
  Tensor sums = torch::stable::new_zeros(grad, {images, height, width, channels}, scalar_type_of<Acc>);
  Acc* to = sums.mutable_data_ptr<Acc>();
  constexpr int64_t kBlock = 64;
  const int64_t blocks = (channels + kBlock - 1) / kBlock;
  const int64_t tasks = sums.numel() > 0 ? images * blocks : 0;  // there may be 2^40 images of no pixel
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    Taps<Acc> taps(out_h, out_w);
    std::vector<Acc> tile(samples * std::min(kBlock, channels));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / blocks, c = task % blocks * kBlock, block = std::min(kBlock, channels - c);
      const Map<Acc> target{to + image * pixels * channels + c, width, channels};
      for (int64_t r = 0; r < count; ++r) {
        if (static_cast<int64_t>(rois[5 * r]) != image) continue;
        if (!taps.read(rois + 5 * r, static_cast<Acc>(scale), rounded, height, width)) continue;
        const T* row = from + r * samples * channels;
        if constexpr (std::is_same_v<T, Acc>) {
          if (last) {
            dispatch<Scatter<Acc>>(Map<const Acc>{row + c, out_w, channels}, block, &taps, target);
            continue;
          }
        }
        if (last) {
          for (int64_t s = 0; s < samples; ++s) {
            for (int64_t i = 0; i < block; ++i) tile[s * block + i] = static_cast<Acc>(row[s * channels + c + i]);
          }
        } else {
          transpose(row + c * samples, samples, tile.data(), block, block, samples);
        }
        dispatch<Scatter<Acc>>(Map<const Acc>{tile.data(), out_w, block}, block, &taps, target);
      }
    }
  });
  const Tensor rounded_sums = std::is_same_v<T, Acc> ? sums : torch::stable::to(sums, grad.scalar_type());
  return channels_last ? channels_first(rounded_sums) : torch::stable::contiguous(channels_first(rounded_sums));
}

// A box's gradient is summed by one thread, over channels and samples in order.
template <typename T>
Tensor backward_rois(const Tensor& grad_tensor, const Tensor& input, const Tensor& rois_tensor, double scale,
                     bool rounded) {
  using Acc = Accumulator<T>;
  const int64_t count = rois_tensor.size(0), samples = grad_tensor.size(2) * grad_tensor.size(3);
  const int64_t images = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  const Tensor grad = to_channels_last<T>(grad_tensor), features = to_channels_last<T>(input);
  const Tensor rois_rows = torch::stable::contiguous(rois_tensor);
  const T* grads = grad.const_data_ptr<T>();
  const T* from = features.const_data_ptr<T>();
  const Acc* rois = rois_rows.const_data_ptr<Acc>();
  check_images(rois, count, images);
  Tensor output = torch::stable::new_zeros(rois_tensor, {count, 5});
  Acc* to = output.mutable_data_ptr<Acc>();
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Taps<Acc> taps(grad.size(2), grad.size(3));
    std::vector<Acc> sums(4 * channels);
    for (int64_t r = begin; r < end; ++r) {
      if (!taps.read(rois + 5 * r, static_cast<Acc>(scale), rounded, height, width)) continue;
      const T* image = from + static_cast<int64_t>(rois[5 * r]) * height * width * channels;
      dispatch<CornerSums<T>>(grads + r * samples * channels, Map<const T>{image, width, channels}, channels, &taps,
                              sums.data());
      for (int64_t k = 0; k < 4; ++k) {
        double total = 0;
        for (int64_t c = 0; c < channels; ++c) total += static_cast<double>(sums[k * channels + c]);
        to[5 * r + 1 + k] = static_cast<Acc>(total * scale);
      }
    }
  });
  return output;
}

Tensor wide(const Tensor& half) { return torch::stable::to(half, ScalarType::Float); }

// Half is converted as a whole, once: tap by tap it would cost ten times more without the instructions for it.
Tensor roi_warp(const Tensor& features, const Tensor& rois, double scale, int64_t height, int64_t width,
                bool rounded) {
  check_roi_warp(features, rois, height, width);
  return for_floating_type(features, "features", [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, Half>) {
      return torch::stable::to(forward<float>(wide(features), rois, scale, height, width, rounded), ScalarType::Half);
    } else {
      return forward<T>(features, rois, scale, height, width, rounded);
    }
  });
}

Tensor roi_warp_backward_input(const Tensor& grad, const Tensor& rois, double scale, int64_t images,
                               int64_t in_height, int64_t in_width, bool rounded, bool channels_last,
                               bool /*deterministic: it always is*/) {
  check_grad_and_rois(grad, rois, images, in_height, in_width);
  return for_floating_type(grad, "grad", [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, Half>) {
      const Tensor sums =
          backward_input<float>(wide(grad), rois, scale, images, in_height, in_width, rounded, channels_last);
      return torch::stable::to(sums, ScalarType::Half);
    } else {
      return backward_input<T>(grad, rois, scale, images, in_height, in_width, rounded, channels_last);
    }
  });
}

Tensor roi_warp_backward_rois(const Tensor& grad, const Tensor& features, const Tensor& rois, double scale,
                              bool rounded) {
  check_roi_warp_backward_rois(grad, features, rois);
  return for_floating_type(features, "features", [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, Half>) {
      return backward_rois<float>(wide(grad), wide(features), rois, scale, rounded);
    } else {
      return backward_rois<T>(grad, features, rois, scale, rounded);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("roi_warp", TORCH_BOX(&roi_warp));
  m.impl("roi_warp_backward_input", TORCH_BOX(&roi_warp_backward_input));
  m.impl("roi_warp_backward_rois", TORCH_BOX(&roi_warp_backward_rois));
}

}  // namespace maskrcnn
