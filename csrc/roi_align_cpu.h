// One box on the CPU: the taps and samples of its rows and columns, and the loops over contiguous channels.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "cpu.h"
#include "roi_align.h"

namespace maskrcnn {

// One axis of one box as a sparse matrix: target k is the sum of weight * source over the entries
// [begin[k], begin[k + 1]). Targets are bins and sources pixels; the backward pass uses the transpose.
template <typename Acc>
struct Taps {
  std::vector<int64_t> target, begin, source;
  std::vector<Acc> weight;

  void fill(const RoIAxis<Acc>& axis, int64_t bins, int64_t size) {
    clear();
    for (int64_t p = 0; p < bins; ++p) {
      BinTaps<Acc> taps(axis, p, size);
      int64_t pixel = 0;
      for (Acc share = 0; taps.next(&pixel, &share);) {
        source.push_back(pixel);
        weight.push_back(share);
      }
      target.push_back(p);
      begin.push_back(static_cast<int64_t>(source.size()));
    }
  }

  void transpose_of(const Taps& bins, int64_t size) {
    clear();
    count_.assign(size + 1, 0);
    for (const int64_t pixel : bins.source) ++count_[pixel + 1];
    for (int64_t pixel = 0; pixel < size; ++pixel) {
      if (count_[pixel + 1] > 0) {
        target.push_back(pixel);
        begin.push_back(begin.back() + count_[pixel + 1]);
      }
      count_[pixel + 1] += count_[pixel];
    }
    source.resize(bins.source.size());
    weight.resize(bins.source.size());
    for (size_t k = 0; k < bins.target.size(); ++k) {
      for (int64_t e = bins.begin[k]; e < bins.begin[k + 1]; ++e) {
        const int64_t at = count_[bins.source[e]]++;
        source[at] = bins.target[k];
        weight[at] = bins.weight[e];
      }
    }
  }

  int64_t targets() const { return static_cast<int64_t>(target.size()); }

  int64_t longest() const {
    int64_t longest = 0;
    for (size_t k = 0; k < target.size(); ++k) longest = std::max(longest, begin[k + 1] - begin[k]);
    return longest;
  }

  // Calls visit(pixel) for the pixels of targets [first, last).
  template <typename Visit>
  void for_each_source(int64_t first, int64_t last, Visit visit) const {
    for (int64_t e = begin[first]; e < begin[last]; ++e) visit(source[e]);
  }

 private:
  std::vector<int64_t> count_;

  void clear() {
    target.clear();
    begin.assign(1, 0);
    source.clear();
    weight.clear();
  }
};

// One axis of one box as its samples, those of bin k at [begin[k], begin[k + 1]): the maximum cannot merge them.
template <typename Acc>
struct Samples {
  std::vector<int64_t> begin;
  std::vector<RoISample<Acc>> sample;

  void fill(const RoIAxis<Acc>& axis, int64_t bins, int64_t size) {
    begin.assign(1, 0);
    sample.clear();
    for (int64_t p = 0; p < bins; ++p) {
      int64_t first = 0, last = 0;
      // The margin of the range holds a sample outside, which stands for the zeros of those left out.
      samples_within(axis, p, -1.0, double(size), &first, &last);
      for (int64_t i = first; i < last; ++i) sample.push_back(roi_sample(axis, p, i, size));
      begin.push_back(static_cast<int64_t>(sample.size()));
    }
  }

  int64_t targets() const { return static_cast<int64_t>(begin.size()) - 1; }

  template <typename Visit>
  void for_each_source(int64_t first, int64_t last, Visit visit) const {
    for (int64_t e = begin[first]; e < begin[last]; ++e) {
      if (!sample[e].inside) continue;
      visit(sample[e].low);
      visit(sample[e].high);
    }
  }
};

// A grid of vectors of channels, `stride` apart. Slots say where a row or column lies; without, at its own number.
template <typename T>
struct Grid {
  T* data;
  int64_t width, stride;
  const int64_t* row_slot = nullptr;
  const int64_t* col_slot = nullptr;

  MASKRCNN_INLINE T* at(int64_t y, int64_t x) const {
    return data + ((row_slot ? row_slot[y] : y) * width + (col_slot ? col_slot[x] : x)) * stride;
  }
};

// to(y, x) = (or +=) the sum of from(v, u) * rows(y, v) * cols(x, u), a vector of channels each, for some target rows.
template <typename Acc, bool accumulate>
struct Gather {
  static MASKRCNN_INLINE void run(Grid<const Acc> from, Grid<Acc> to, int64_t channels, const Taps<Acc>* rows,
                                  const Taps<Acc>* cols, int64_t first_row, int64_t last_row, const Acc** tap,
                                  Acc* weight) {
    const int64_t num_cols = cols->targets();
    for (int64_t i = first_row; i < last_row; ++i) {
      for (int64_t j = 0; j < num_cols; ++j) {
        int64_t n = 0;
        for (int64_t y = rows->begin[i]; y < rows->begin[i + 1]; ++y) {
          for (int64_t x = cols->begin[j]; x < cols->begin[j + 1]; ++x, ++n) {
            tap[n] = from.at(rows->source[y], cols->source[x]);
            weight[n] = rows->weight[y] * cols->weight[x];
          }
        }
        sum(tap, weight, n, channels, to.at(rows->target[i], cols->target[j]));
      }
    }
  }

 private:
  // Four taps a pass: each loop over the channels is one that compilers vectorise, and the running sum is read and
  // written a quarter as often.
  static MASKRCNN_INLINE void sum(const Acc** tap, const Acc* weight, int64_t n, int64_t channels, Acc* out) {
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
  static MASKRCNN_INLINE void add(const Acc** tap, const Acc* weight, int64_t channels, Acc* MASKRCNN_RESTRICT out) {
    const Acc* MASKRCNN_RESTRICT t0 = tap[0];
    const Acc* MASKRCNN_RESTRICT t1 = tap[N > 1 ? 1 : 0];
    const Acc* MASKRCNN_RESTRICT t2 = tap[N > 2 ? 2 : 0];
    const Acc* MASKRCNN_RESTRICT t3 = tap[N > 3 ? 3 : 0];
    const Acc w0 = weight[0], w1 = weight[N > 1 ? 1 : 0], w2 = weight[N > 2 ? 2 : 0], w3 = weight[N > 3 ? 3 : 0];
    for (int64_t c = 0; c < channels; ++c) {
      Acc total = w0 * t0[c];
      if (N > 1) total += w1 * t1[c];
      if (N > 2) total += w2 * t2[c];
      if (N > 3) total += w3 * t3[c];
      out[c] = onto ? out[c] + total : total;
    }
  }
};

// The greatest sample of bin (p, q) in each channel, zero without samples. With `tracks`, also where it was found, as
// an index into the rows' and the columns' samples; -1 for a zero that no pixel gave.
template <typename Acc, bool tracks>
MASKRCNN_INLINE void greatest_sample(Grid<const Acc> from, int64_t channels, const Samples<Acc>* rows,
                                     const Samples<Acc>* cols, int64_t p, int64_t q, Acc* MASKRCNN_RESTRICT best,
                                     int32_t* MASKRCNN_RESTRICT best_row, int32_t* MASKRCNN_RESTRICT best_col) {
  const int64_t row_begin = rows->begin[p], row_end = rows->begin[p + 1];
  const int64_t col_begin = cols->begin[q], col_end = cols->begin[q + 1];
  const bool none = row_begin == row_end || col_begin == col_end;
  // Below all values, so that the first sample takes its place, whatever it is but -infinity.
  std::fill(best, best + channels, none ? Acc(0) : -std::numeric_limits<Acc>::infinity());
  if (tracks) {
    std::fill(best_row, best_row + channels, -1);
    std::fill(best_col, best_col + channels, -1);
  }
  for (int64_t i = row_begin; i < row_end; ++i) {
    for (int64_t j = col_begin; j < col_end; ++j) {
      const RoISample<Acc>&y = rows->sample[i], &x = cols->sample[j];
      if (!(y.inside && x.inside)) {
        for (int64_t c = 0; c < channels; ++c) {
          const bool better = is_better(Acc(0), best[c]);
          best[c] = better ? Acc(0) : best[c];
          if (tracks) best_row[c] = better ? -1 : best_row[c];
        }
        continue;
      }
      const Acc* MASKRCNN_RESTRICT low_low = from.at(y.low, x.low);
      const Acc* MASKRCNN_RESTRICT low_high = from.at(y.low, x.high);
      const Acc* MASKRCNN_RESTRICT high_low = from.at(y.high, x.low);
      const Acc* MASKRCNN_RESTRICT high_high = from.at(y.high, x.high);
      const Acc w0 = y.weight_low * x.weight_low, w1 = y.weight_low * x.weight_high;
      const Acc w2 = y.weight_high * x.weight_low, w3 = y.weight_high * x.weight_high;
      const int32_t row = static_cast<int32_t>(i), col = static_cast<int32_t>(j);
      for (int64_t c = 0; c < channels; ++c) {
        const Acc value = w0 * low_low[c] + w1 * low_high[c] + w2 * high_low[c] + w3 * high_high[c];
        const bool better = is_better(value, best[c]);
        best[c] = better ? value : best[c];
        if (tracks) {
          best_row[c] = better ? row : best_row[c];
          best_col[c] = better ? col : best_col[c];
        }
      }
    }
  }
}

template <typename Acc>
struct Maximum {
  static MASKRCNN_INLINE void run(Grid<const Acc> from, Grid<Acc> to, int64_t channels, const Samples<Acc>* rows,
                                  const Samples<Acc>* cols, int64_t first_row, int64_t last_row) {
    for (int64_t p = first_row; p < last_row; ++p) {
      for (int64_t q = 0; q < cols->targets(); ++q) {
        greatest_sample<Acc, false>(from, channels, rows, cols, p, q, to.at(p, q), nullptr, nullptr);
      }
    }
  }
};

// image += the gradient of the maximum: each bin's gradient goes to the four pixels of its greatest sample.
template <typename Acc>
struct MaximumGradient {
  static MASKRCNN_INLINE void run(Grid<const Acc> from, Grid<const Acc> grad, Grid<Acc> image, int64_t channels,
                                  const Samples<Acc>* rows, const Samples<Acc>* cols, int64_t first_row,
                                  int64_t last_row, Acc* best, int32_t* best_row, int32_t* best_col) {
    for (int64_t p = first_row; p < last_row; ++p) {
      for (int64_t q = 0; q < cols->targets(); ++q) {
        greatest_sample<Acc, true>(from, channels, rows, cols, p, q, best, best_row, best_col);
        const Acc* bin = grad.at(p, q);
        for (int64_t c = 0; c < channels; ++c) {
          if (best_row[c] < 0) continue;
          const RoISample<Acc>&y = rows->sample[best_row[c]], &x = cols->sample[best_col[c]];
          image.at(y.low, x.low)[c] += bin[c] * y.weight_low * x.weight_low;
          image.at(y.low, x.high)[c] += bin[c] * y.weight_low * x.weight_high;
          image.at(y.high, x.low)[c] += bin[c] * y.weight_high * x.weight_low;
          image.at(y.high, x.high)[c] += bin[c] * y.weight_high * x.weight_high;
        }
      }
    }
  }
};

// The pixels of an image that some rows of bins read, as Acc: half types are converted once per row of bins, not once
// per tap. An image of Acc is read where it is.
template <typename T, typename Acc>
class Window {
 public:
  static constexpr bool copies = !std::is_same_v<T, Acc>;

  // The columns that a box reads; `axis` is its Taps or Samples.
  template <typename Axis>
  void set_columns(const Axis& axis, int64_t size) {
    choose(axis, 0, axis.targets(), size, &cols_, &col_slot_);
  }

  // Rows of bins [first, last) of an image of `height` rows.
  template <typename Axis>
  Grid<const Acc> open(Grid<const T> image, int64_t channels, const Axis& rows, int64_t first, int64_t last,
                       int64_t height) {
    if constexpr (copies) {
      choose(rows, first, last, height, &rows_, &row_slot_);
      const int64_t width = static_cast<int64_t>(cols_.size());
      pixels_.resize(rows_.size() * cols_.size() * channels);
      Acc* to = pixels_.data();
      for (const int64_t y : rows_) {
        for (const int64_t x : cols_) {
          convert(image.at(y, x), to, channels);
          to += channels;
        }
      }
      return {pixels_.data(), width, channels, row_slot_.data(), col_slot_.data()};
    } else {
      return image;
    }
  }

 private:
  std::vector<int64_t> rows_, cols_, row_slot_, col_slot_;
  std::vector<Acc> pixels_;

  // The pixels of one axis, each once, and the slot of each.
  template <typename Axis>
  static void choose(const Axis& axis, int64_t first, int64_t last, int64_t size, std::vector<int64_t>* pixels,
                     std::vector<int64_t>* slot) {
    if (static_cast<int64_t>(slot->size()) != size) {
      slot->assign(size, -1);
    } else {
      for (const int64_t pixel : *pixels) (*slot)[pixel] = -1;
    }
    pixels->clear();
    axis.for_each_source(first, last, [&](int64_t pixel) {
      if ((*slot)[pixel] >= 0) return;
      (*slot)[pixel] = static_cast<int64_t>(pixels->size());
      pixels->push_back(pixel);
    });
  }
};

// One box after another, with the memory of the last one. T is the features' type.
template <typename T>
class BoxReader {
 public:
  using Acc = Accumulator<T>;

  explicit BoxReader(const RoIAlign& p) : p_(p) {}

  // bins = the mean or maximum of each bin of the box over the image.
  void gather(const RoIBox<Acc>& box, Grid<const T> image, Grid<Acc> bins, int64_t channels) {
    if (p_.maximum) {
      fill(box, &row_samples_, &col_samples_);
      by_rows(box, image, channels, row_samples_, col_samples_, [&](Grid<const Acc> from, int64_t first, int64_t last) {
        dispatch<Maximum<Acc>>(from, bins, channels, &row_samples_, &col_samples_, first, last);
      });
      return;
    }
    fill(box, &rows_, &cols_);
    make_room(rows_, cols_);
    by_rows(box, image, channels, rows_, cols_, [&](Grid<const Acc> from, int64_t first, int64_t last) {
      dispatch<Gather<Acc, false>>(from, bins, channels, &rows_, &cols_, first, last, tap_.data(), weight_.data());
    });
  }

  // image += the transpose of the mean. By pixel, not by bin: the large array is read and written once per pixel that
  // the box touches.
  void scatter_mean(const RoIBox<Acc>& box, Grid<const Acc> bins, Grid<Acc> image, int64_t channels) {
    fill(box, &rows_, &cols_);
    rows_transposed_.transpose_of(rows_, p_.level[box.level].height);
    cols_transposed_.transpose_of(cols_, p_.level[box.level].width);
    make_room(rows_transposed_, cols_transposed_);
    dispatch<Gather<Acc, true>>(bins, image, channels, &rows_transposed_, &cols_transposed_, int64_t(0),
                                rows_transposed_.targets(), tap_.data(), weight_.data());
  }

  void scatter_maximum(const RoIBox<Acc>& box, Grid<const T> features, Grid<const Acc> bins, Grid<Acc> image,
                       int64_t channels) {
    fill(box, &row_samples_, &col_samples_);
    best_.resize(channels);
    best_row_.resize(channels);
    best_col_.resize(channels);
    by_rows(box, features, channels, row_samples_, col_samples_,
            [&](Grid<const Acc> from, int64_t first, int64_t last) {
              dispatch<MaximumGradient<Acc>>(from, bins, image, channels, &row_samples_, &col_samples_, first, last,
                                             best_.data(), best_row_.data(), best_col_.data());
            });
  }

 private:
  template <typename Axis>
  void fill(const RoIBox<Acc>& box, Axis* rows, Axis* cols) {
    rows->fill(box.y, p_.bins_h, p_.level[box.level].height);
    cols->fill(box.x, p_.bins_w, p_.level[box.level].width);
  }

  // Calls work(pixels, first, last) for all rows of bins at once, or where pixels are converted, one after the other.
  template <typename Axis, typename Work>
  void by_rows(const RoIBox<Acc>& box, Grid<const T> image, int64_t channels, const Axis& rows, const Axis& cols,
               Work work) {
    const RoIAlignLevel& level = p_.level[box.level];
    if (window_.copies) window_.set_columns(cols, level.width);
    const int64_t step = window_.copies ? 1 : p_.bins_h;
    for (int64_t p = 0; p < p_.bins_h; p += step) {
      work(window_.open(image, channels, rows, p, p + step, level.height), p, p + step);
    }
  }

  void make_room(const Taps<Acc>& rows, const Taps<Acc>& cols) {
    const int64_t most = rows.longest() * cols.longest();
    tap_.resize(most);
    weight_.resize(most);
  }

  const RoIAlign& p_;
  Taps<Acc> rows_, cols_, rows_transposed_, cols_transposed_;
  Samples<Acc> row_samples_, col_samples_;
  Window<T, Acc> window_;
  std::vector<const Acc*> tap_;
  std::vector<Acc> weight_, best_;
  std::vector<int32_t> best_row_, best_col_;
};

}  // namespace maskrcnn
