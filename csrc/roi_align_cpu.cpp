// RoIAlign on the CPU (Mask R-CNN §3): per box, the taps of its rows and columns once; per bin, a weighted sum of
// feature vectors over contiguous channels.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "cpu.h"
#include "roi_align.h"

namespace maskrcnn {
namespace {

struct Shape {
  int64_t images, channels, height, width;  // of the features
  int64_t bins_h, bins_w;
};

// One axis of one box as a sparse matrix: target k is the sum of weight * source over the entries
// [begin[k], begin[k + 1]). Targets are bins and sources pixels; the backward pass uses the transpose.
template <typename Acc>
struct Taps {
  std::vector<int64_t> target, begin, source;
  std::vector<Acc> weight;

  // Samples of a bin that share a pixel are merged: with bins of up to two pixels that halves the work, and adaptive
  // sampling reads each pixel about once.
  void fill(const RoIAxis<Acc>& axis, int64_t bins, int64_t size) {
    clear();
    const Acc share = Acc(1) / Acc(std::max<int64_t>(axis.samples, 1));
    for (int64_t p = 0; p < bins; ++p) {
      int64_t first = 0, last = 0;
      sample_range(axis, p, size, &first, &last);
      for (int64_t i = first; i < last; ++i) {
        int64_t low = 0, high = 0;
        Acc weight_low = 0, weight_high = 0;
        if (!roi_sample(axis, p, i, size, &low, &high, &weight_low, &weight_high)) continue;
        add(low, weight_low * share);
        add(high, weight_high * share);
      }
      close(p);
    }
  }

  void transpose_of(const Taps& bins, int64_t size) {
    clear();
    count.assign(size + 1, 0);
    for (const int64_t pixel : bins.source) ++count[pixel + 1];
    for (int64_t pixel = 0; pixel < size; ++pixel) {
      if (count[pixel + 1] > 0) {
        target.push_back(pixel);
        begin.push_back(begin.back() + count[pixel + 1]);
      }
      count[pixel + 1] += count[pixel];
    }
    source.resize(bins.source.size());
    weight.resize(bins.source.size());
    for (size_t k = 0; k < bins.target.size(); ++k) {
      for (int64_t e = bins.begin[k]; e < bins.begin[k + 1]; ++e) {
        const int64_t at = count[bins.source[e]]++;
        source[at] = bins.target[k];
        weight[at] = bins.weight[e];
      }
    }
  }

  int64_t longest() const {
    int64_t longest = 0;
    for (size_t k = 0; k < target.size(); ++k) longest = std::max(longest, begin[k + 1] - begin[k]);
    return longest;
  }

 private:
  std::vector<int64_t> count;

  void clear() {
    target.clear();
    begin.assign(1, 0);
    source.clear();
    weight.clear();
  }

  void close(int64_t t) {
    target.push_back(t);
    begin.push_back(static_cast<int64_t>(source.size()));
  }

  void add(int64_t where, Acc value) {
    if (value == Acc(0)) return;
    // Samples advance monotonically: a shared pixel is one of the last two.
    const int64_t size = static_cast<int64_t>(source.size());
    for (int64_t k = size - 1; k >= std::max(begin.back(), size - 2); --k) {
      if (source[k] == where) {
        weight[k] += value;
        return;
      }
    }
    source.push_back(where);
    weight.push_back(value);
  }
};

// A grid of vectors of channels: element (y, x) starts at (y * width + x) * stride.
template <typename T>
struct Grid {
  T* data;
  int64_t width, stride;
};

// to(y, x) = (or +=) the sum of from(v, u) * rows(y, v) * cols(x, u), a vector of channels each.
template <typename T, typename Acc, bool accumulate>
struct Gather {
  static MASKRCNN_INLINE void run(Grid<const T> from, Grid<Acc> to, int64_t channels, const Taps<Acc>* rows,
                                  const Taps<Acc>* cols, const T** tap, Acc* weight) {
    const int64_t num_rows = static_cast<int64_t>(rows->target.size());
    const int64_t num_cols = static_cast<int64_t>(cols->target.size());
    for (int64_t i = 0; i < num_rows; ++i) {
      for (int64_t j = 0; j < num_cols; ++j) {
        int64_t n = 0;
        for (int64_t y = rows->begin[i]; y < rows->begin[i + 1]; ++y) {
          for (int64_t x = cols->begin[j]; x < cols->begin[j + 1]; ++x, ++n) {
            tap[n] = from.data + (rows->source[y] * from.width + cols->source[x]) * from.stride;
            weight[n] = rows->weight[y] * cols->weight[x];
          }
        }
        Acc* out = to.data + (rows->target[i] * to.width + cols->target[j]) * to.stride;
        sum(tap, weight, n, channels, out);
      }
    }
  }

 private:
  // Four taps a pass: each loop over the channels is one that compilers vectorise, and the running sum is read and
  // written a quarter as often.
  static MASKRCNN_INLINE void sum(const T** tap, const Acc* weight, int64_t n, int64_t channels, Acc* out) {
    if (n == 0 && !accumulate) std::fill(out, out + channels, Acc(0));
    if (n % 4 == 1) add<1, accumulate>(tap, weight, channels, out);
    if (n % 4 == 2) add<2, accumulate>(tap, weight, channels, out);
    if (n % 4 == 3) add<3, accumulate>(tap, weight, channels, out);
    int64_t k = n % 4;
    if (k == 0 && n > 0) {
      add<4, accumulate>(tap, weight, channels, out);
      k = 4;
    }
    for (; k < n; k += 4) add<4, true>(tap + k, weight + k, channels, out);
  }

  template <int N, bool onto>
  static MASKRCNN_INLINE void add(const T** tap, const Acc* weight, int64_t channels, Acc* MASKRCNN_RESTRICT out) {
    const T* MASKRCNN_RESTRICT t0 = tap[0];
    const T* MASKRCNN_RESTRICT t1 = tap[N > 1 ? 1 : 0];
    const T* MASKRCNN_RESTRICT t2 = tap[N > 2 ? 2 : 0];
    const T* MASKRCNN_RESTRICT t3 = tap[N > 3 ? 3 : 0];
    const Acc w0 = weight[0], w1 = weight[N > 1 ? 1 : 0], w2 = weight[N > 2 ? 2 : 0], w3 = weight[N > 3 ? 3 : 0];
    for (int64_t c = 0; c < channels; ++c) {
      Acc total = w0 * static_cast<Acc>(t0[c]);
      if (N > 1) total += w1 * static_cast<Acc>(t1[c]);
      if (N > 2) total += w2 * static_cast<Acc>(t2[c]);
      if (N > 3) total += w3 * static_cast<Acc>(t3[c]);
      out[c] = onto ? out[c] + total : total;
    }
  }
};

// One box after another, with the memory of the last one.
template <typename T>
class Reader {
 public:
  using Acc = Accumulator<T>;

  Reader(const Shape& shape, double scale, int64_t sampling_ratio, bool aligned)
      : s_(shape), scale_(static_cast<Acc>(scale)), sampling_ratio_(sampling_ratio), aligned_(aligned) {}

  // False: the box is not finite.
  bool read(const Acc* roi) {
    const auto x = roi_axis(roi[1], roi[3], scale_, s_.bins_w, sampling_ratio_, aligned_);
    const auto y = roi_axis(roi[2], roi[4], scale_, s_.bins_h, sampling_ratio_, aligned_);
    if (!x.finite || !y.finite) return false;
    rows_.fill(y, s_.bins_h, s_.height);
    cols_.fill(x, s_.bins_w, s_.width);
    return true;
  }

  // The bins' sums over the image's pixels.
  void gather(Grid<const T> image, Grid<Acc> bins, int64_t channels) {
    run<false>(image, bins, channels, rows_, cols_);
  }

  // The transpose. By pixel, not by bin: the large array is read and written once per pixel that the box touches.
  void scatter(Grid<const T> bins, Grid<Acc> image, int64_t channels) {
    rows_transposed_.transpose_of(rows_, s_.height);
    cols_transposed_.transpose_of(cols_, s_.width);
    run<true>(bins, image, channels, rows_transposed_, cols_transposed_);
  }

 private:
  template <bool accumulate>
  void run(Grid<const T> from, Grid<Acc> to, int64_t channels, const Taps<Acc>& rows, const Taps<Acc>& cols) {
    const int64_t most = rows.longest() * cols.longest();
    tap_.resize(most);
    weight_.resize(most);
    dispatch<Gather<T, Acc, accumulate>>(from, to, channels, &rows, &cols, tap_.data(), weight_.data());
  }

  const Shape s_;
  const Acc scale_;
  const int64_t sampling_ratio_;
  const bool aligned_;
  Taps<Acc> rows_, cols_, rows_transposed_, cols_transposed_;
  std::vector<const T*> tap_;
  std::vector<Acc> weight_;
};

void check_rois(const Tensor& rois, ScalarType expected) {
  check(rois.dim() == 2 && rois.size(1) == 5, "rois: expected shape (R, 5), got ", rois.dim(), " dimensions");
  check(rois.scalar_type() == expected, "rois: dtype ", torch::headeronly::toString(rois.scalar_type()), "; expected ",
        torch::headeronly::toString(expected), " for these features");
  check(rois.is_cpu(), "rois: expected a tensor on the CPU, like the features");
}

template <typename T>
Tensor forward(const Tensor& input, const Tensor& rois_tensor, double scale, Shape s, int64_t sampling_ratio,
               bool aligned) {
  using Acc = Accumulator<T>;
  const int64_t count = rois_tensor.size(0), bins = s.bins_h * s.bins_w;
  const bool last = is_channels_last(input);
  Tensor output = last ? new_channels_last(input, count, s.channels, s.bins_h, s.bins_w)
                       : torch::stable::new_empty(input, {count, s.channels, s.bins_h, s.bins_w});
  const Tensor rois_rows = torch::stable::contiguous(rois_tensor);
  const Acc* rois = rois_rows.const_data_ptr<Acc>();
  check_images(rois, count, s.images);
  if (count * s.channels * s.height * s.width == 0) {
    return count * s.channels == 0 ? output : torch::stable::fill_(output, 0.0);
  }
  const Tensor features = to_channels_last<T>(input);
  const T* from = features.const_data_ptr<T>();
  T* to = output.mutable_data_ptr<T>();

  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Reader<T> reader(s, scale, sampling_ratio, aligned);
    std::vector<Acc> tile(bins * s.channels);  // (bins, C), what the sum writes; the output's layout comes after
    for (int64_t r = begin; r < end; ++r) {
      T* row = to + r * bins * s.channels;
      if (!reader.read(rois + 5 * r)) {
        std::fill(row, row + bins * s.channels, static_cast<T>(std::numeric_limits<Acc>::quiet_NaN()));
        continue;
      }
      const int64_t image = static_cast<int64_t>(rois[5 * r]);
      const Grid<const T> pixels{from + image * s.height * s.width * s.channels, s.width, s.channels};
      if constexpr (std::is_same_v<T, Acc>) {
        if (last) {
          reader.gather(pixels, {row, s.bins_w, s.channels}, s.channels);
          continue;
        }
      }
      reader.gather(pixels, {tile.data(), s.bins_w, s.channels}, s.channels);
      if (last) {
        for (int64_t i = 0; i < bins * s.channels; ++i) row[i] = static_cast<T>(tile[i]);
      } else {
        transpose(tile.data(), s.channels, row, bins, bins, s.channels);
      }
    }
  });
  return output;
}

template <typename T>
Tensor backward(const Tensor& grad_tensor, const Tensor& rois_tensor, double scale, Shape s, int64_t sampling_ratio,
                bool aligned, bool channels_last) {
  using Acc = Accumulator<T>;
  constexpr ScalarType acc_type = std::is_same_v<Acc, double> ? ScalarType::Double : ScalarType::Float;
  const int64_t count = rois_tensor.size(0), bins = s.bins_h * s.bins_w, pixels = s.height * s.width;
  const bool last = is_channels_last(grad_tensor);
  const Tensor grad = last ? grad_tensor : torch::stable::contiguous(grad_tensor);
  const Tensor rois_rows = torch::stable::contiguous(rois_tensor);
  const T* from = grad.const_data_ptr<T>();
  const Acc* rois = rois_rows.const_data_ptr<Acc>();
  check_images(rois, count, s.images);

  // Summed as NHWC in float or double.
  Tensor sums = torch::stable::new_zeros(grad, {s.images, s.height, s.width, s.channels}, acc_type);
  Acc* to = sums.mutable_data_ptr<Acc>();
  if (count * s.channels * pixels > 0) {
    // A task owns an image's block of channels and takes the boxes in order: no two tasks write one element, and the
    // order of each sum does not depend on the blocks, so not on the number of threads.
    // As few blocks as keep every thread busy: a box's geometry is worked out for each.
    const int64_t wanted = std::max<int64_t>(1, torch::stable::get_num_threads());
    const int64_t share = (s.images * s.channels + wanted - 1) / wanted;
    const int64_t block = std::min((share + 15) / 16 * 16, s.channels);
    const int64_t blocks = (s.channels + block - 1) / block;
    torch::stable::parallel_for(0, s.images * blocks, 1, [&](int64_t begin, int64_t end) {
      Reader<Acc> reader(s, scale, sampling_ratio, aligned);
      std::vector<Acc> tile(bins * block);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / blocks, c0 = task % blocks * block;
        const int64_t width = std::min(block, s.channels - c0);
        const Grid<Acc> target{to + image * pixels * s.channels + c0, s.width, s.channels};
        for (int64_t r = 0; r < count; ++r) {
          if (static_cast<int64_t>(rois[5 * r]) != image || !reader.read(rois + 5 * r)) continue;
          const T* row = from + r * bins * s.channels;
          if constexpr (std::is_same_v<T, Acc>) {
            if (last) {
              reader.scatter({row + c0, s.bins_w, s.channels}, target, width);
              continue;
            }
          }
          if (last) {
            for (int64_t b = 0; b < bins; ++b) {
              for (int64_t c = 0; c < width; ++c) {
                tile[b * width + c] = static_cast<Acc>(row[b * s.channels + c0 + c]);
              }
            }
          } else {
            transpose(row + c0 * bins, bins, tile.data(), width, width, bins);
          }
          reader.scatter({tile.data(), s.bins_w, width}, target, width);
        }
      }
    });
  }
  if (channels_last) {
    const Tensor rounded = std::is_same_v<T, Acc> ? sums : torch::stable::to(sums, grad.scalar_type());
    return channels_first(rounded);
  }
  Tensor output = torch::stable::new_empty(grad, {s.images, s.channels, s.height, s.width});
  T* result = output.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, s.images * s.height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / s.height, y = i % s.height;
      transpose(to + i * s.width * s.channels, s.channels, result + image * s.channels * pixels + y * s.width, pixels,
                s.width, s.channels);
    }
  });
  return output;
}

ScalarType rois_type(const Tensor& features) {
  return features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_bins(int64_t height, int64_t width, int64_t sampling_ratio) {
  check(height > 0 && width > 0, "output_size: (", height, ", ", width, "); expected two positive numbers");
  check(sampling_ratio >= 0, "sampling_ratio: ", sampling_ratio, "; expected 0 (adaptive) or a positive number");
}

void check_float(const Tensor& t, const char* name) {
  check(t.scalar_type() == ScalarType::Float, name, ": dtype ", torch::headeronly::toString(t.scalar_type()),
        "; expected float32, float64, float16 or bfloat16");
}

// Half is converted as a whole, once: tap by tap it would cost ten times more without the instructions for it, while
// a bfloat16 is a shift.
Tensor roi_align(const Tensor& input, const Tensor& rois, double scale, int64_t height, int64_t width,
                 int64_t sampling_ratio, bool aligned) {
  check(input.dim() == 4, "features: expected shape (N, C, H, W), got ", input.dim(), " dimensions");
  check_rois(rois, rois_type(input));
  check_bins(height, width, sampling_ratio);
  const Shape s{input.size(0), input.size(1), input.size(2), input.size(3), height, width};
  switch (input.scalar_type()) {
    case ScalarType::Double:
      return forward<double>(input, rois, scale, s, sampling_ratio, aligned);
    case ScalarType::BFloat16:
      return forward<BFloat16>(input, rois, scale, s, sampling_ratio, aligned);
    case ScalarType::Half:
      return torch::stable::to(
          forward<float>(torch::stable::to(input, ScalarType::Float), rois, scale, s, sampling_ratio, aligned),
          ScalarType::Half);
    default:
      check_float(input, "features");
      return forward<float>(input, rois, scale, s, sampling_ratio, aligned);
  }
}

Tensor roi_align_backward(const Tensor& grad, const Tensor& rois, double scale, int64_t images, int64_t in_height,
                          int64_t in_width, int64_t sampling_ratio, bool aligned, bool channels_last) {
  check(grad.dim() == 4, "grad: expected shape (R, C, h, w), got ", grad.dim(), " dimensions");
  check_rois(rois, rois_type(grad));
  check(grad.size(0) == rois.size(0), "grad: ", grad.size(0), " rows for ", rois.size(0), " rois");
  check_bins(grad.size(2), grad.size(3), sampling_ratio);
  check(images >= 0 && in_height >= 0 && in_width >= 0, "the features' size must not be negative");
  const Shape s{images, grad.size(1), in_height, in_width, grad.size(2), grad.size(3)};
  switch (grad.scalar_type()) {
    case ScalarType::Double:
      return backward<double>(grad, rois, scale, s, sampling_ratio, aligned, channels_last);
    case ScalarType::BFloat16:
      return backward<BFloat16>(grad, rois, scale, s, sampling_ratio, aligned, channels_last);
    case ScalarType::Half:
      return torch::stable::to(backward<float>(torch::stable::to(grad, ScalarType::Float), rois, scale, s,
                                               sampling_ratio, aligned, channels_last),
                               ScalarType::Half);
    default:
      check_float(grad, "grad");
      return backward<float>(grad, rois, scale, s, sampling_ratio, aligned, channels_last);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward));
}

}  // namespace maskrcnn
