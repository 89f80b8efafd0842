// RoIPool on the CPU (Fast R-CNN §2.1): per bin, a running maximum of feature vectors over contiguous channels, and
// beside it the pixel it came from, to which the gradient goes.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu.h"
#include "roi_pool.h"

namespace maskrcnn {
namespace {

struct Window {
  int64_t first, last;
};

// Every bin's maximum of one box: `best` and `position`, (bins, channels).
template <typename T>
struct MaxOfWindows {
  using Acc = Accumulator<T>;

  static MASKRCNN_INLINE void run(const T* image, int64_t width, int64_t channels, const std::vector<Window>* rows,
                                  const std::vector<Window>* cols, Acc* best, int32_t* position) {
    for (const Window& row : *rows) {
      for (const Window& col : *cols) {
        if (row.last <= row.first || col.last <= col.first) {
          std::fill(best, best + channels, Acc(0));
          std::fill(position, position + channels, -1);
        } else {
          // The first pixel's own value, not minus infinity: that may be the maximum.
          const int64_t corner = row.first * width + col.first;
          const T* pixel = image + corner * channels;
          for (int64_t c = 0; c < channels; ++c) best[c] = static_cast<Acc>(pixel[c]);
          std::fill(position, position + channels, static_cast<int32_t>(corner));
          for (int64_t y = row.first; y < row.last; ++y) {
            for (int64_t x = col.first; x < col.last; ++x) {
              const int64_t at = y * width + x;
              update(image + at * channels, static_cast<int32_t>(at), channels, best, position);
            }
          }
        }
        best += channels;
        position += channels;
      }
    }
  }

 private:
  static MASKRCNN_INLINE void update(const T* MASKRCNN_RESTRICT pixel, int32_t at, int64_t channels,
                                     Acc* MASKRCNN_RESTRICT best, int32_t* MASKRCNN_RESTRICT position) {
    for (int64_t c = 0; c < channels; ++c) {
      const Acc value = static_cast<Acc>(pixel[c]);
      const bool better = (value > best[c]) | (value != value);  // NaN wins: hidden, it would look like training
      best[c] = better ? value : best[c];
      position[c] = better ? at : position[c];
    }
  }
};

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& input, const Tensor& rois_tensor, double scale, int64_t bins_h,
                                   int64_t bins_w) {
  using Acc = Accumulator<T>;
  const int64_t count = rois_tensor.size(0), bins = bins_h * bins_w;
  const int64_t images = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  const bool last = is_channels_last(input);
  const auto new_output = [&](ScalarType type) {
    const Tensor plain = torch::stable::new_empty(input, {count, last ? bins_h : channels, last ? bins_w : bins_h,
                                                          last ? channels : bins_w}, type);
    return last ? channels_first(plain) : plain;
  };
  Tensor output = new_output(input.scalar_type()), argmax = new_output(ScalarType::Int);
  const Tensor rois_rows = torch::stable::contiguous(rois_tensor);
  const Acc* rois = rois_rows.const_data_ptr<Acc>();
  check_images(rois, count, images);
  const Tensor features = to_channels_last<T>(input);
  const T* from = features.const_data_ptr<T>();
  T* to = output.mutable_data_ptr<T>();
  int32_t* to_position = argmax.mutable_data_ptr<int32_t>();

  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    std::vector<Window> rows(bins_h), cols(bins_w);
    std::vector<Acc> best(bins * channels);  // (bins, C); the output's layout comes after
    std::vector<int32_t> position(bins * channels);
    for (int64_t r = begin; r < end; ++r) {
      const Acc* roi = rois + 5 * r;
      T* row = to + r * bins * channels;
      int32_t* row_position = to_position + r * bins * channels;
      const auto x = pool_axis(roi[1], roi[3], static_cast<Acc>(scale), bins_w);
      const auto y = pool_axis(roi[2], roi[4], static_cast<Acc>(scale), bins_h);
      if (!x.finite || !y.finite) {
        std::fill(row, row + bins * channels, static_cast<T>(kNaN<Acc>));
        std::fill(row_position, row_position + bins * channels, -1);
        continue;
      }
      for (int64_t p = 0; p < bins_h; ++p) pool_window(y, p, height, &rows[p].first, &rows[p].last);
      for (int64_t p = 0; p < bins_w; ++p) pool_window(x, p, width, &cols[p].first, &cols[p].last);
      const T* image = from + static_cast<int64_t>(roi[0]) * height * width * channels;
      if constexpr (std::is_same_v<T, Acc>) {
        if (last) {
          dispatch<MaxOfWindows<T>>(image, width, channels, &rows, &cols, row, row_position);
          continue;
        }
      }
      int32_t* positions = last ? row_position : position.data();
      dispatch<MaxOfWindows<T>>(image, width, channels, &rows, &cols, best.data(), positions);
      if (last) {
        for (int64_t i = 0; i < bins * channels; ++i) row[i] = static_cast<T>(best[i]);
      } else {
        transpose(best.data(), channels, row, bins, bins, channels);
        transpose(position.data(), channels, row_position, bins, bins, channels);
      }
    }
  });
  return {output, argmax};
}

// The rows of each image's boxes, in order. As long as there are boxes, not images.
class RoIsByImage {
 public:
  template <typename Acc>
  RoIsByImage(const Acc* rois, int64_t count) : entries_(count) {
    for (int64_t r = 0; r < count; ++r) entries_[r] = {static_cast<int64_t>(rois[5 * r]), r};
    std::sort(entries_.begin(), entries_.end());
  }

  // Calls visit(row) for each box of the image.
  template <typename Visit>
  void visit(int64_t image, Visit visit) const {
    auto entry = std::lower_bound(entries_.begin(), entries_.end(), std::pair<int64_t, int64_t>(image, 0));
    for (; entry != entries_.end() && entry->first == image; ++entry) visit(entry->second);
  }

 private:
  std::vector<std::pair<int64_t, int64_t>> entries_;  // image, row
};

// Every pixel's gradient is summed by one task, box after box: its order does not depend on the number of threads.
// (N, C, H, W): a task owns a plane.
template <typename T>
Tensor backward_planes(const Tensor& grad_tensor, const Tensor& argmax_tensor, const RoIsByImage& rois,
                       int64_t images, int64_t height, int64_t width) {
  using Acc = Accumulator<T>;
  const Tensor grad = torch::stable::contiguous(grad_tensor), argmax = torch::stable::contiguous(argmax_tensor);
  const int64_t channels = grad.size(1), pixels = height * width;
  const int64_t bins = grad.size(2) * grad.size(3);
  Tensor output = torch::stable::new_empty(grad, {images, channels, height, width});
  const T* from = grad.const_data_ptr<T>();
  const int32_t* position = argmax.const_data_ptr<int32_t>();
  T* to = output.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, images * channels, 1, [&](int64_t begin, int64_t end) {
    std::vector<Acc> rounded_later(std::is_same_v<T, Acc> ? 0 : pixels);
    for (int64_t task = begin; task < end; ++task) {
      T* result = to + task * pixels;
      Acc* sums = nullptr;
      if constexpr (std::is_same_v<T, Acc>) {
        sums = result;
      } else {
        sums = rounded_later.data();
      }
      std::fill(sums, sums + pixels, Acc(0));
      rois.visit(task / channels, [&](int64_t r) {
        const int64_t row = (r * channels + task % channels) * bins;
        for (int64_t i = row; i < row + bins; ++i) {
          if (position[i] >= 0 && position[i] < pixels) sums[position[i]] += static_cast<Acc>(from[i]);
        }
      });
      if constexpr (!std::is_same_v<T, Acc>) {
        for (int64_t i = 0; i < pixels; ++i) result[i] = static_cast<T>(sums[i]);
      }
    }
  });
  return output;
}

// NHWC: a task owns a block of an image's channels. As few blocks as keep every thread busy: gradients and positions
// are read along channels, and narrow blocks would take a little of every page at a time. The block's sums lie side by
// side, since lines that lie `channels` apart would share few of the cache's sets.
template <typename T>
Tensor backward_channels_last(const Tensor& grad_tensor, const Tensor& argmax_tensor, const RoIsByImage& rois,
                              int64_t images, int64_t height, int64_t width) {
  using Acc = Accumulator<T>;
  const Tensor grad = to_channels_last<T>(grad_tensor), argmax = to_channels_last<int32_t>(argmax_tensor);
  const int64_t channels = grad.size(1), pixels = height * width;
  const int64_t bins = grad.size(2) * grad.size(3);
  Tensor output = new_channels_last(grad, images, channels, height, width);  // refuses sizes whose product overflows
  const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  const int64_t share = (images * channels + threads - 1) / threads;
  const int64_t most = std::max<int64_t>(1, std::min((share + 15) / 16 * 16, channels));
  const int64_t blocks = (channels + most - 1) / most;
  const T* from = grad.const_data_ptr<T>();
  const int32_t* position = argmax.const_data_ptr<int32_t>();
  T* to = output.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, images * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<Acc> sums;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * most, block = std::min(most, channels - first);
      sums.assign(pixels * block, Acc(0));
      rois.visit(task / blocks, [&](int64_t r) {
        for (int64_t bin = r * bins; bin < (r + 1) * bins; ++bin) {
          const int64_t row = bin * channels + first;
          for (int64_t c = 0; c < block; ++c) {
            const int64_t at = position[row + c];
            if (at >= 0 && at < pixels) sums[at * block + c] += static_cast<Acc>(from[row + c]);
          }
        }
      });
      T* image = to + task / blocks * pixels * channels + first;
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        for (int64_t c = 0; c < block; ++c) image[pixel * channels + c] = static_cast<T>(sums[pixel * block + c]);
      }
    }
  });
  return output;
}

template <typename T>
Tensor backward(const Tensor& grad, const Tensor& argmax, const Tensor& rois_tensor, int64_t images, int64_t height,
                int64_t width, bool channels_last) {
  using Acc = Accumulator<T>;
  const int64_t count = rois_tensor.size(0);
  const Tensor rois_rows = torch::stable::contiguous(rois_tensor);
  const Acc* rois = rois_rows.const_data_ptr<Acc>();
  check_images(rois, count, images);
  if (images == 0 || grad.size(1) == 0 || height == 0 || width == 0) {  // there may be 2^40 images of no pixel
    return channels_last ? new_channels_last(grad, images, grad.size(1), height, width)
                         : torch::stable::new_empty(grad, {images, grad.size(1), height, width});
  }
  const RoIsByImage by_image(rois, count);
  return channels_last ? backward_channels_last<T>(grad, argmax, by_image, images, height, width)
                       : backward_planes<T>(grad, argmax, by_image, images, height, width);
}

// Half is converted as a whole, once: element by element it would cost far more without the instructions for it.
std::tuple<Tensor, Tensor> roi_pool(const Tensor& features, const Tensor& rois, double scale, int64_t height,
                                    int64_t width) {
  check_roi_pool(features, rois, height, width);
  return for_floating_type(features, "features", [&](auto zero) -> std::tuple<Tensor, Tensor> {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, Half>) {
      auto [output, argmax] =
          forward<float>(torch::stable::to(features, ScalarType::Float), rois, scale, height, width);
      return {torch::stable::to(output, ScalarType::Half), argmax};
    } else {
      return forward<T>(features, rois, scale, height, width);
    }
  });
}

Tensor roi_pool_backward(const Tensor& grad, const Tensor& argmax, const Tensor& rois, double /*scale*/,
                         int64_t images, int64_t in_height, int64_t in_width, bool channels_last,
                         bool /*deterministic: it always is*/) {
  check_roi_pool_backward(grad, argmax, rois, images, in_height, in_width);
  return for_floating_type(grad, "grad", [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, Half>) {
      const Tensor wide = torch::stable::to(grad, ScalarType::Float);
      return torch::stable::to(backward<float>(wide, argmax, rois, images, in_height, in_width, channels_last),
                               ScalarType::Half);
    } else {
      return backward<T>(grad, argmax, rois, images, in_height, in_width, channels_last);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("roi_pool", TORCH_BOX(&roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&roi_pool_backward));
}

}  // namespace maskrcnn
