// RoIAlign on the CPU (Mask R-CNN §3): features as NHWC, so that a tap is a vector of channels.
#include "roi_align_cpu.h"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "cpu.h"
#include "roi_align.h"

namespace maskrcnn {
namespace {

template <typename Acc>
std::vector<RoIBox<Acc>> read_boxes(const Tensor& rois, const RoIAlign& p) {
  const Tensor contiguous = torch::stable::contiguous(rois);
  const Acc* data = contiguous.const_data_ptr<Acc>();
  check_images(data, p.rois, p.images);
  std::vector<RoIBox<Acc>> boxes(p.rows());
  for (int64_t row = 0; row < p.rows(); ++row) boxes[row] = roi_box(data, row, p);
  return boxes;
}

// Each level's features as NHWC; none where the gradient of the mean needs none.
template <typename T>
class Pyramid {
 public:
  // Only the levels that a box reads: on the others the change of layout would be for nothing.
  template <typename Acc>
  Pyramid(const std::vector<Tensor>& features, const std::vector<RoIBox<Acc>>& boxes, const RoIAlign& p) : p_(p) {
    std::vector<bool> used(p.levels, false);
    for (const RoIBox<Acc>& box : boxes) {
      if (box.valid) used[box.level] = true;
    }
    for (size_t k = 0; k < features.size(); ++k) {
      levels_.push_back(used[k] ? to_channels_last<T>(features[k]) : features[k]);
      data_.push_back(levels_.back().template const_data_ptr<T>());
    }
  }

  // The pixels of a box's image on its level, from a channel on.
  template <typename Acc>
  Grid<const T> image(const RoIBox<Acc>& box, int64_t channel = 0) const {
    const RoIAlignLevel& level = p_.level[box.level];
    const T* data = data_[box.level] + box.image * level.height * level.width * p_.channels + channel;
    return {data, level.width, p_.channels};
  }

 private:
  const RoIAlign& p_;
  std::vector<Tensor> levels_;
  std::vector<const T*> data_;
};

template <typename T>
Tensor forward(const std::vector<Tensor>& features, const Tensor& rois, const RoIAlign& p) {
  using Acc = Accumulator<T>;
  const int64_t rows = p.rows(), bins = p.bins(), channels = p.channels;
  const bool last = is_channels_last(features[0]);
  Tensor output = last ? new_channels_last(features[0], rows, channels, p.bins_h, p.bins_w)
                       : torch::stable::new_empty(features[0], {rows, channels, p.bins_h, p.bins_w});
  const std::vector<RoIBox<Acc>> boxes = read_boxes<Acc>(rois, p);
  if (rows * channels == 0) return output;
  const Pyramid<T> pyramid(features, boxes, p);
  T* to = output.mutable_data_ptr<T>();

  torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    BoxReader<T> reader(p);
    std::vector<Acc> tile(bins * channels);  // (bins, C); the output's type and layout come after
    for (int64_t i = begin; i < end; ++i) {
      // With every level for each box, levels take turns: a thread of its own for the finest would be the last.
      const int64_t r = p.assigned ? i : i % p.levels * p.rois + i / p.levels;
      T* row = to + r * bins * channels;
      if (!boxes[r].valid) {
        std::fill(row, row + bins * channels, static_cast<T>(kNaN<Acc>));
        continue;
      }
      if constexpr (std::is_same_v<T, Acc>) {
        if (last) {
          reader.gather(boxes[r], pyramid.image(boxes[r]), {row, p.bins_w, channels}, channels);
          continue;
        }
      }
      reader.gather(boxes[r], pyramid.image(boxes[r]), {tile.data(), p.bins_w, channels}, channels);
      if (last) {
        convert(tile.data(), row, bins * channels);
      } else {
        transpose(tile.data(), channels, row, bins, bins, channels);
      }
    }
  });
  return output;
}

// NHWC sums in the gradient's type and layout.
template <typename T, typename Acc>
Tensor finish(const Tensor& sums, const Tensor& grad, bool channels_last) {
  if (channels_last && std::is_same_v<T, Acc>) return channels_first(sums);
  const int64_t n = sums.size(0), h = sums.size(1), w = sums.size(2), c = sums.size(3), pixels = h * w;
  Tensor output = channels_last ? new_channels_last(grad, n, c, h, w) : torch::stable::new_empty(grad, {n, c, h, w});
  if (output.numel() == 0) return output;
  const Acc* from = sums.const_data_ptr<Acc>();
  T* to = output.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, n * h, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Acc* row = from + i * w * c;
      if (channels_last) {
        convert(row, to + i * w * c, w * c);
      } else {
        transpose(row, c, to + i / h * c * pixels + i % h * w, pixels, w, c);
      }
    }
  });
  return output;
}

template <typename T>
std::vector<Tensor> backward(const Tensor& grad_tensor, const std::vector<Tensor>& features, const Tensor& rois,
                             const RoIAlign& p, bool channels_last) {
  using Acc = Accumulator<T>;
  const int64_t rows = p.rows(), bins = p.bins(), channels = p.channels;
  const bool last = is_channels_last(grad_tensor);
  const Tensor grad = last ? grad_tensor : torch::stable::contiguous(grad_tensor);
  const T* from = grad.const_data_ptr<T>();
  const std::vector<RoIBox<Acc>> boxes = read_boxes<Acc>(rois, p);

  std::vector<Tensor> sums;  // NHWC, in float or double
  std::vector<Acc*> to;
  int64_t elements = 0;
  for (int64_t k = 0; k < p.levels; ++k) {
    const RoIAlignLevel& level = p.level[k];
    sums.push_back(
        torch::stable::new_zeros(grad, {p.images, level.height, level.width, channels}, scalar_type_of<Acc>));
    to.push_back(sums.back().mutable_data_ptr<Acc>());
    elements += sums.back().numel();
  }
  if (rows > 0 && elements > 0) {
    const Pyramid<T> pyramid(features, boxes, p);
    // A task owns a block of channels of one image and takes the boxes in order: no two tasks write one element, and
    // the order of each sum does not depend on the blocks, so not on the number of threads. As few blocks as keep every
    // thread busy, since each works out the boxes' taps; images take turns, since they may have more or fewer boxes.
    const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
    const int64_t block = std::min(((channels + threads - 1) / threads + 15) / 16 * 16, channels);
    const int64_t blocks = (channels + block - 1) / block;
    torch::stable::parallel_for(0, p.images * blocks, 1, [&](int64_t begin, int64_t end) {
      BoxReader<T> reader(p);
      std::vector<Acc> tile(bins * block);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task % p.images, c0 = task / p.images * block;
        const int64_t width = std::min(block, channels - c0);
        for (int64_t r = 0; r < rows; ++r) {
          const RoIBox<Acc>& box = boxes[r];
          if (!box.valid || box.image != image) continue;
          const RoIAlignLevel& level = p.level[box.level];
          const T* row = from + r * bins * channels;
          Grid<const Acc> bin_grads{tile.data(), p.bins_w, width};
          if (!last) {
            transpose(row + c0 * bins, bins, tile.data(), width, width, bins);
          } else if constexpr (std::is_same_v<T, Acc>) {
            bin_grads = {row + c0, p.bins_w, channels};
          } else {
            for (int64_t b = 0; b < bins; ++b) convert(row + b * channels + c0, tile.data() + b * width, width);
          }
          const Grid<Acc> target{to[box.level] + image * level.height * level.width * channels + c0, level.width,
                                 channels};
          if (p.maximum) {
            reader.scatter_maximum(box, pyramid.image(box, c0), bin_grads, target, width);
          } else {
            reader.scatter_mean(box, bin_grads, target, width);
          }
        }
      }
    });
  }
  std::vector<Tensor> gradients;
  for (const Tensor& level : sums) gradients.push_back(finish<T, Acc>(level, grad, channels_last));
  return gradients;
}

Tensor roi_align(std::vector<Tensor> features, const Tensor& rois, std::vector<double> scales, int64_t height,
                 int64_t width, int64_t sampling_ratio, bool aligned, bool rounded, bool maximum,
                 std::optional<std::vector<double>> level_rule) {
  const RoIAlign p = roi_align_forward_problem(features, rois, height, width,
                                               {scales, sampling_ratio, aligned, rounded, maximum, level_rule});
  return for_floating_type(features[0], "features",
                           [&](auto type) { return forward<decltype(type)>(features, rois, p); });
}

// Always deterministic.
std::vector<Tensor> roi_align_backward(const Tensor& grad, std::vector<Tensor> features, const Tensor& rois,
                                       std::vector<int64_t> sizes, std::vector<double> scales, int64_t sampling_ratio,
                                       bool aligned, bool rounded, bool maximum,
                                       std::optional<std::vector<double>> level_rule, bool channels_last, bool) {
  const RoIAlign p = roi_align_backward_problem(grad, features, rois, sizes,
                                                {scales, sampling_ratio, aligned, rounded, maximum, level_rule});
  return for_floating_type(grad, "grad",
                           [&](auto type) { return backward<decltype(type)>(grad, features, rois, p, channels_last); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward));
}

}  // namespace maskrcnn
