// Where RoIAlign reads (Mask R-CNN §3): the level of a box, the samples of one axis of it, and what they come to. Both
// axes are independent, so a bin's weights are the products of its rows' and its columns' weights.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "common.h"

namespace maskrcnn {

constexpr int64_t kMaxLevels = 16;
constexpr int64_t kMaxSamplingRatio = 1024;

struct RoIAlignLevel {
  int64_t height, width;
  double scale;  // feature pixels per input pixel
};

// All that is asked for, but the tensors. Flat, since CUDA kernels take it by value.
struct RoIAlign {
  int64_t images, channels, rois, levels;
  int64_t bins_h, bins_w, sampling_ratio;
  bool aligned, rounded, maximum;
  bool assigned;  // each box reads the level of FPN Eq. 1; else every level: row r is box r % rois on level r / rois
  double canonical_level, canonical_size, epsilon, finest, extent;
  RoIAlignLevel level[kMaxLevels];

  MASKRCNN_HOST_DEVICE int64_t rows() const { return assigned ? rois : levels * rois; }
  MASKRCNN_HOST_DEVICE int64_t bins() const { return bins_h * bins_w; }
};

// ---- geometry ----------------------------------------------------------------------------------------------------

// One axis of one box, in feature pixels. Acc is float, or double for double features.
template <typename Acc>
struct RoIAxis {
  Acc start;        // of the first bin
  Acc bin;          // length of a bin; negative for an inverted box
  int64_t samples;  // in a bin; 0 for a box without extent under adaptive sampling
};

template <typename Acc>
struct RoIBox {
  bool valid;  // finite, and of an image that exists
  int64_t image, level;
  RoIAxis<Acc> y, x;
};

// FPN Eq. 1: k = floor(k0 + log2(sqrt(wh) / 224 + epsilon)), as an index into the levels.
template <typename Acc>
MASKRCNN_HOST_DEVICE int64_t roi_level(const Acc* box, const RoIAlign& p) {
  const Acc width = box[2] - box[0] + Acc(p.extent), height = box[3] - box[1] + Acc(p.extent);
  const Acc area = width > Acc(0) && height > Acc(0) ? width * height : Acc(0);
  const Acc relative = std::sqrt(area) / Acc(p.canonical_size);
  const Acc k = std::floor(std::log2(relative + Acc(p.epsilon)) + Acc(p.canonical_level)) - Acc(p.finest);
  if (!(k > Acc(0))) return 0;  // NaN too
  return k < Acc(p.levels - 1) ? static_cast<int64_t>(k) : p.levels - 1;
}

// False: not finite. Infinite differences of finite corners count so too; they would be undefined as an integer.
template <typename Acc>
MASKRCNN_HOST_DEVICE bool roi_axis(Acc low, Acc high, Acc scale, int64_t bins, const RoIAlign& p, RoIAxis<Acc>* axis) {
  low *= scale;
  high *= scale;
  if (p.rounded) {
    low = std::round(low);  // half away from zero, as RoIPool
    high = std::round(high);
  }
  const Acc offset = p.aligned ? Acc(0.5) : Acc(0);
  axis->start = low - offset;
  Acc length = (high - offset) - axis->start;
  if (!(std::isfinite(axis->start) && std::isfinite(length))) return false;
  if (!p.aligned && length < Acc(1)) length = Acc(1);
  axis->bin = length / Acc(bins);
  axis->samples = p.sampling_ratio;
  if (p.sampling_ratio == 0) {
    const Acc wanted = std::ceil(axis->bin);
    // The cap is far above any image, and keeps the conversion defined.
    axis->samples = !(wanted > Acc(0)) ? 0 : wanted < Acc(1 << 30) ? int64_t(wanted) : int64_t(1) << 30;
  }
  return true;
}

template <typename Acc>
MASKRCNN_HOST_DEVICE RoIBox<Acc> roi_box(const Acc* rois, int64_t row, const RoIAlign& p) {
  const Acc* roi = rois + (p.assigned ? row : row % p.rois) * 5;
  RoIBox<Acc> box{};
  if (!(roi[0] >= Acc(0) && roi[0] < Acc(p.images))) return box;
  box.image = static_cast<int64_t>(roi[0]);
  box.level = p.assigned ? roi_level(roi + 1, p) : row / p.rois;
  const Acc scale = static_cast<Acc>(p.level[box.level].scale);
  const bool x = roi_axis(roi[1], roi[3], scale, p.bins_w, p, &box.x);
  const bool y = roi_axis(roi[2], roi[4], scale, p.bins_h, p, &box.y);
  box.valid = x && y;
  return box;
}

// The members i of 0..count - 1 for which origin + (i + 1/2) step can lie in [low, high], as [first, last), with a
// margin of two for rounding: each is still tested by itself.
MASKRCNN_HOST_DEVICE inline void members_within(double origin, double step, int64_t count, double low, double high,
                                                int64_t* first, int64_t* last) {
  *first = 0;
  *last = count;
  if (!(step > 0)) return;
  const double from = std::floor((low - origin) / step) - 2.0, to = std::ceil((high - origin) / step) + 2.0;
  const double most = double(count);
  *first = int64_t(from < 0.0 ? 0.0 : from > most ? most : from);
  *last = int64_t(to < 0.0 ? 0.0 : to > most ? most : to);
}

// The samples of bin p that can lie in [low, high]: the rest would only cost time, up to 2^30 of them.
template <typename Acc>
MASKRCNN_HOST_DEVICE void samples_within(const RoIAxis<Acc>& axis, int64_t p, double low, double high, int64_t* first,
                                         int64_t* last) {
  *first = 0;
  *last = axis.samples;
  if (axis.samples <= 16) return;
  const double origin = double(axis.start) + double(p) * double(axis.bin);
  members_within(origin, double(axis.bin) / double(axis.samples), axis.samples, low, high, first, last);
}

// Two neighbouring pixels and their weights; outside the map the sample counts as zero.
template <typename Acc>
struct RoISample {
  bool inside;
  int64_t low, high;
  Acc weight_low, weight_high;
};

// Sample i of bin p on a map of `size` pixels.
template <typename Acc>
MASKRCNN_HOST_DEVICE RoISample<Acc> roi_sample(const RoIAxis<Acc>& axis, int64_t p, int64_t i, int64_t size) {
  Acc x = axis.start + Acc(p) * axis.bin + (Acc(i) + Acc(0.5)) * axis.bin / Acc(axis.samples);
  if (!(x >= Acc(-1) && x <= Acc(size)) || size == 0) return {};
  if (x < Acc(0)) x = Acc(0);
  const int64_t low = int64_t(x);
  if (low >= size - 1) return {true, size - 1, size - 1, Acc(1), Acc(0)};
  const Acc weight_high = x - Acc(low);
  return {true, low, low + 1, Acc(1) - weight_high, weight_high};
}

// The pixels that bin p reads along one axis, and their share in the mean over its samples. Samples that share a pixel
// are merged: with bins of up to two pixels that halves the work, and adaptive sampling reads each pixel about once.
template <typename Acc>
class BinTaps {
 public:
  MASKRCNN_HOST_DEVICE BinTaps(const RoIAxis<Acc>& axis, int64_t p, int64_t size)
      : axis_(axis), p_(p), size_(size), share_(Acc(1) / Acc(axis.samples > 0 ? axis.samples : 1)) {
    samples_within(axis, p, -1.0, double(size), &next_, &last_);
  }

  // The next pixel and its weight; false: there is none.
  MASKRCNN_HOST_DEVICE bool next(int64_t* pixel, Acc* weight) {
    for (; next_ < last_; ++next_) {
      const RoISample<Acc> sample = roi_sample(axis_, p_, next_, size_);
      if (!sample.inside) continue;
      if (pixel_ < 0) {
        take(sample, Acc(0));
      } else if (sample.low == pixel_) {
        weight_ += sample.weight_low;
        after_ += sample.weight_high;
      } else {
        give(pixel, weight);
        if (sample.low == pixel_ + 1) {
          take(sample, after_);
        } else if (after_ != Acc(0)) {
          step();
          return true;  // and comes back to this sample
        } else {
          take(sample, Acc(0));
        }
        ++next_;
        return true;
      }
    }
    if (pixel_ < 0) return false;
    give(pixel, weight);
    step();
    return true;
  }

 private:
  MASKRCNN_HOST_DEVICE void give(int64_t* pixel, Acc* weight) const {
    *pixel = pixel_;
    *weight = weight_ * share_;
  }

  MASKRCNN_HOST_DEVICE void take(const RoISample<Acc>& sample, Acc carried) {
    pixel_ = sample.low;
    weight_ = carried + sample.weight_low;
    after_ = sample.weight_high;
  }

  MASKRCNN_HOST_DEVICE void step() {
    pixel_ = after_ != Acc(0) ? pixel_ + 1 : -1;
    weight_ = after_;
    after_ = Acc(0);
  }

  const RoIAxis<Acc>& axis_;
  const int64_t p_, size_;
  const Acc share_;
  int64_t next_ = 0, last_ = 0;
  int64_t pixel_ = -1;                    // the pixel that gathers weight; -1: none
  Acc weight_ = Acc(0), after_ = Acc(0);  // its weight, and that of the pixel after it
};

// Whether `value` replaces `best` as the maximum: the first of equals stays, and the first NaN wins.
template <typename Acc>
MASKRCNN_HOST_DEVICE bool is_better(Acc value, Acc best) {
  return value > best || (value != value && best == best);
}

// ---- arguments ---------------------------------------------------------------------------------------------------

struct RoIAlignOptions {
  const std::vector<double>& scales;
  int64_t sampling_ratio;
  bool aligned, rounded, maximum;
  // (k0, canonical size, epsilon, finest level); without one, every box reads every level.
  const std::optional<std::vector<double>>& level_rule;
};

// `sizes`: images, then height and width of each level.
inline RoIAlign roi_align_problem(const std::vector<int64_t>& sizes, int64_t channels, const Tensor& rois,
                                  int64_t bins_h, int64_t bins_w, const RoIAlignOptions& options) {
  const int64_t levels = static_cast<int64_t>(sizes.size()) / 2;
  check(sizes.size() % 2 == 1 && levels >= 1 && levels <= kMaxLevels, "features: ", levels, " levels; expected 1 to ",
        kMaxLevels);
  check(static_cast<int64_t>(options.scales.size()) == levels, "scales: ", options.scales.size(), " of them for ",
        levels, " levels");
  check_shape(rois, "rois", {-1, 5}, "(R, 5): image index, x1, y1, x2, y2");
  check_output_size(bins_h, bins_w);
  check(options.sampling_ratio >= 0 && options.sampling_ratio <= kMaxSamplingRatio,
        "sampling_ratio: ", options.sampling_ratio, "; expected 0 (adaptive) or up to ", kMaxSamplingRatio);
  RoIAlign p{};
  p.images = sizes[0];
  p.channels = channels;
  p.rois = rois.size(0);
  p.levels = levels;
  p.bins_h = bins_h;
  p.bins_w = bins_w;
  p.sampling_ratio = options.sampling_ratio;
  p.aligned = options.aligned;
  p.rounded = options.rounded;
  p.maximum = options.maximum;
  p.assigned = options.level_rule.has_value();
  if (p.assigned) {
    const std::vector<double>& rule = *options.level_rule;
    check(rule.size() == 5, "level_rule: ", rule.size(), " numbers; expected 5");
    p.canonical_level = rule[0];
    p.canonical_size = rule[1];
    p.epsilon = rule[2];
    p.finest = rule[3];
    p.extent = rule[4];
  }
  check(p.images >= 0, "sizes: ", p.images, " images");
  for (int64_t k = 0; k < levels; ++k) {
    p.level[k] = {sizes[1 + 2 * k], sizes[2 + 2 * k], options.scales[k]};
    check(p.level[k].height >= 0 && p.level[k].width >= 0, "sizes: level ", k, " has ", p.level[k].height, " x ",
          p.level[k].width, " pixels");
    check_frame(p.level[k].height, p.level[k].width);
    check(std::isfinite(options.scales[k]) && options.scales[k] > 0, "scales: ", options.scales[k],
          "; expected positive numbers");
  }
  return p;
}

inline std::vector<int64_t> sizes_of(const std::vector<Tensor>& features) {
  std::vector<int64_t> sizes;
  for (const Tensor& level : features) {
    check_shape(level, "features", {-1, -1, -1, -1}, "(N, C, H, W)");
    if (sizes.empty()) sizes.push_back(level.size(0));
    sizes.push_back(level.size(2));
    sizes.push_back(level.size(3));
  }
  return sizes;
}

// Every level beside the tensor that decides dtype and device.
inline void check_levels(const std::vector<Tensor>& features, const Tensor& like, const char* name, const RoIAlign& p) {
  for (const Tensor& level : features) {
    check(level.size(0) == p.images && level.size(1) == p.channels, "features: shape ", shape_of(level), "; expected ",
          p.images, " images and ", p.channels, " channels on every level");
    check_dtype(level, "features", like.scalar_type());
    check_same_device(level, "features", like, name);
  }
}

inline RoIAlign roi_align_forward_problem(const std::vector<Tensor>& features, const Tensor& rois, int64_t bins_h,
                                          int64_t bins_w, const RoIAlignOptions& options) {
  check(!features.empty(), "features: no level");
  const std::vector<int64_t> sizes = sizes_of(features);
  const RoIAlign p = roi_align_problem(sizes, features[0].size(1), rois, bins_h, bins_w, options);
  check_levels(features, features[0], "the first level", p);
  check_boxes_dtype(rois, "rois", features[0]);
  check_same_device(rois, "rois", features[0], "features");
  return p;
}

// Features are what the maximum's winners are found in; the mean needs none.
inline RoIAlign roi_align_backward_problem(const Tensor& grad, const std::vector<Tensor>& features, const Tensor& rois,
                                           const std::vector<int64_t>& sizes, const RoIAlignOptions& options) {
  check_shape(grad, "grad", {-1, -1, -1, -1}, "(rows, C, h, w)");
  const RoIAlign p = roi_align_problem(sizes, grad.size(1), rois, grad.size(2), grad.size(3), options);
  check(grad.size(0) == p.rows(), "grad: ", grad.size(0), " rows; expected ", p.rows());
  check_boxes_dtype(rois, "rois", grad);
  check_same_device(rois, "rois", grad, "grad");
  check(p.maximum || features.empty(), "features: given, but the mean's gradient needs none");
  if (p.maximum) {
    check(sizes_of(features) == sizes, "features: other sizes than `sizes`");
    check_levels(features, grad, "grad", p);
  }
  return p;
}

}  // namespace maskrcnn
