// Keypoints from heat maps on the CPU: a map at a time, its patches' bounds in vectors, then the patches that matter.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "cpu.h"
#include "keypoints.h"

namespace maskrcnn {
namespace {

constexpr int64_t kBorder = 2;  // cells beyond each edge that a sample may read; they repeat the edge

// A map with its border, and the patches' bounds.
template <typename Acc>
struct Patches {
  int64_t rows, columns;                  // of the map with its border
  std::vector<Acc> cells;                 // (rows, columns)
  std::vector<Acc> row_lower, row_upper;  // (rows, columns - 3): of each row between two cells
  std::vector<Acc> upper;                 // (rows - 3, columns - 3): of each patch
  std::vector<Acc> largest, zero;         // (columns): scratch

  Patches(int64_t height, int64_t width)
      : rows(height + 2 * kBorder),
        columns(width + 2 * kBorder),
        cells(rows * columns),
        row_lower(rows * (columns - 3)),
        row_upper(rows * (columns - 3)),
        upper((rows - 3) * (columns - 3)),
        largest(columns),
        zero(columns) {}
};

// Copies the map, gives the largest magnitude or NaN for a map without a maximum, and bounds every patch.
template <typename T, typename Acc>
struct Bound {
  static MASKRCNN_INLINE Acc run(const T* map, int64_t row_stride, int64_t column_stride, Patches<Acc>* patches) {
    const int64_t height = patches->rows - 2 * kBorder, width = patches->columns - 2 * kBorder;
    for (int64_t y = 0; y < height; ++y) {
      const T* from = map + y * row_stride;
      Acc* to = patches->cells.data() + (y + kBorder) * patches->columns;
      if (column_stride == 1) {
        for (int64_t x = 0; x < width; ++x) to[kBorder + x] = static_cast<Acc>(from[x]);
      } else {
        for (int64_t x = 0; x < width; ++x) to[kBorder + x] = static_cast<Acc>(from[x * column_stride]);
      }
      for (int64_t x = 0; x < kBorder; ++x) {
        to[x] = to[kBorder];
        to[kBorder + width + x] = to[kBorder + width - 1];
      }
    }
    const Acc largest = largest_magnitude(patches);
    if (std::isnan(largest)) return largest;
    bound_rows(height, patches);
    bound_patches(patches);
    return largest;
  }

 private:
  // By columns, since a compiler may not reorder a running maximum.
  static MASKRCNN_INLINE Acc largest_magnitude(Patches<Acc>* patches) {
    const int64_t columns = patches->columns;
    Acc* MASKRCNN_RESTRICT largest = patches->largest.data();
    Acc* MASKRCNN_RESTRICT zero = patches->zero.data();
    for (int64_t x = 0; x < columns; ++x) largest[x] = zero[x] = Acc(0);
    for (int64_t y = kBorder; y < patches->rows - kBorder; ++y) {
      const Acc* MASKRCNN_RESTRICT c = patches->cells.data() + y * columns;
      for (int64_t x = 0; x < columns; ++x) {
        const Acc magnitude = c[x] < Acc(0) ? -c[x] : c[x];
        largest[x] = magnitude > largest[x] ? magnitude : largest[x];
        zero[x] += c[x] * Acc(0);  // NaN once a value is not finite
      }
    }
    Acc most = Acc(0), none = Acc(0);
    for (int64_t x = 0; x < columns; ++x) {
      most = largest[x] > most ? largest[x] : most;
      none += zero[x];
    }
    return none == Acc(0) && most <= largest_logit<Acc>() ? most : kNaN<Acc>;
  }

  static MASKRCNN_INLINE void bound_rows(int64_t height, Patches<Acc>* patches) {
    const int64_t count = patches->columns - 3;
    for (int64_t y = kBorder; y < height + kBorder; ++y) {
      const Acc* MASKRCNN_RESTRICT c = patches->cells.data() + y * patches->columns;
      Acc* MASKRCNN_RESTRICT lower = patches->row_lower.data() + y * count;
      Acc* MASKRCNN_RESTRICT upper = patches->row_upper.data() + y * count;
      for (int64_t x = 0; x < count; ++x) {
        lower[x] = cubic_lower(c[x], c[x + 1], c[x + 2], c[x + 3]);
        upper[x] = cubic_upper(c[x], c[x + 1], c[x + 2], c[x + 3]);
      }
    }
    for (int64_t k = 0; k < kBorder; ++k) {  // the rows of the border, cells and bounds
      copy_row(patches, kBorder, k);
      copy_row(patches, kBorder + height - 1, kBorder + height + k);
    }
  }

  static MASKRCNN_INLINE void copy_row(Patches<Acc>* patches, int64_t from, int64_t to) {
    const int64_t count = patches->columns - 3;
    std::copy_n(patches->cells.data() + from * patches->columns, patches->columns,
                patches->cells.data() + to * patches->columns);
    std::copy_n(patches->row_lower.data() + from * count, count, patches->row_lower.data() + to * count);
    std::copy_n(patches->row_upper.data() + from * count, count, patches->row_upper.data() + to * count);
  }

  static MASKRCNN_INLINE void bound_patches(Patches<Acc>* patches) {
    const int64_t count = patches->columns - 3;
    for (int64_t y = 0; y < patches->rows - 3; ++y) {
      const Acc* MASKRCNN_RESTRICT lower_a = patches->row_lower.data() + y * count;
      const Acc* MASKRCNN_RESTRICT upper_b = patches->row_upper.data() + (y + 1) * count;
      const Acc* MASKRCNN_RESTRICT upper_c = patches->row_upper.data() + (y + 2) * count;
      const Acc* MASKRCNN_RESTRICT lower_d = patches->row_lower.data() + (y + 3) * count;
      Acc* MASKRCNN_RESTRICT upper = patches->upper.data() + y * count;
      for (int64_t x = 0; x < count; ++x) upper[x] = cubic_upper(lower_a[x], upper_b[x], upper_c[x], lower_d[x]);
    }
  }
};

// The first of the largest values.
template <typename Acc>
struct Highest {
  static MASKRCNN_INLINE int64_t run(const Acc* values, int64_t count) {
    constexpr int64_t kLanes = 16;
    Acc lane[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) lane[k] = values[0];
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int64_t k = 0; k < kLanes; ++k) lane[k] = values[i + k] > lane[k] ? values[i + k] : lane[k];
    }
    for (; i < count; ++i) lane[0] = values[i] > lane[0] ? values[i] : lane[0];
    for (int64_t k = 1; k < kLanes; ++k) lane[0] = lane[k] > lane[0] ? lane[k] : lane[0];
    return std::find(values, values + count, lane[0]) - values;
  }
};

// The samples of a patch, [y0, y1) x [x0, x1), that start at cell (0, 0) of `cells`.
struct Window {
  int64_t y0, y1, x0, x1;
};

// The better of `peak` and the best sample of a patch: four rows at its columns, then row by row.
template <typename Acc>
struct Sample {
  static MASKRCNN_INLINE Peak<Acc> run(const Acc* cells, int64_t stride, const KeypointAxis<Acc>* y_axis,
                                       const KeypointAxis<Acc>* x_axis, Window window, Peak<Acc> peak) {
    constexpr int64_t kBlock = 64;
    Acc row[4][kBlock], value[kBlock], w[4];
    for (int64_t x0 = window.x0; x0 < window.x1; x0 += kBlock) {
      const int64_t count = std::min(kBlock, window.x1 - x0);
      for (int64_t x = 0; x < count; ++x) {
        const Acc position = x_axis->position(x0 + x);
        cubic_weights(position - std::floor(position), w);
        for (int64_t k = 0; k < 4; ++k) {
          const Acc* c = cells + k * stride;
          row[k][x] = weighted(w, c[0], c[1], c[2], c[3]);
        }
      }
      for (int64_t y = window.y0; y < window.y1; ++y) {
        const Acc position = y_axis->position(y);
        cubic_weights(position - std::floor(position), w);
        Acc best = -kInfinity<Acc>;
        for (int64_t x = 0; x < count; ++x) {
          value[x] = weighted(w, row[0][x], row[1][x], row[2][x], row[3][x]);
        }
        for (int64_t x = 0; x < count; ++x) best = value[x] > best ? value[x] : best;
        if (best < peak.value) continue;
        const int64_t x = std::find(value, value + count, best) - value;
        const Peak<Acc> candidate{best, y, x0 + x};
        if (peak.is_behind(candidate)) peak = candidate;
      }
    }
    return peak;
  }
};

// One map after another, with the memory of the last one.
template <typename T>
class Decoder {
 public:
  using Acc = Accumulator<T>;

  Decoder(const HeatmapLayout& layout, const T* heatmaps, const Acc* boxes)
      : layout_(layout), heatmaps_(heatmaps), boxes_(boxes), patches_(layout.height, layout.width) {}

  // x, y, logit of keypoint k of box r.
  void decode(int64_t r, int64_t k, Acc* out) {
    set_box(r);
    const T* map = heatmaps_ + r * layout_.box_stride + k * layout_.keypoint_stride;
    const Acc largest =
        is_finite_ ? dispatch<Bound<T, Acc>>(map, layout_.row_stride, layout_.column_stride, &patches_)
                   : kNaN<Acc>;
    if (std::isnan(largest)) {
      std::fill(out, out + 3, largest);
      return;
    }
    const Peak<Acc> peak = find_peak(rounding_slack(largest));
    out[0] = x_axis_.point(peak.x);
    out[1] = y_axis_.point(peak.y);
    out[2] = peak.value;
  }

 private:
  void set_box(int64_t r) {
    if (r == box_) return;
    box_ = r;
    const Acc* box = boxes_ + 4 * r;
    is_finite_ = keypoint_axis(box[0], box[2], layout_.width, &x_axis_) &&
                 keypoint_axis(box[1], box[3], layout_.height, &y_axis_);
    if (!is_finite_) return;
    fill_starts(x_axis_, &x_starts_);
    fill_starts(y_axis_, &y_starts_);
  }

  // The samples of patch p are [starts[p], starts[p + 1]).
  static void fill_starts(const KeypointAxis<Acc>& axis, std::vector<int64_t>* starts) {
    starts->clear();
    for (int64_t patch = 0; patch <= axis.cells + 1; ++patch) starts->push_back(axis.first_sample(patch - 1));
  }

  // From the most promising patch, so that few others are left, then in reading order.
  Peak<Acc> find_peak(Acc slack) const {
    const std::vector<Acc>& upper = patches_.upper;
    const int64_t count = static_cast<int64_t>(upper.size());
    const int64_t promising = dispatch<Highest<Acc>>(upper.data(), count);
    Peak<Acc> peak = sample(promising, no_peak<Acc>());
    for (int64_t p = 0; p < count; ++p) {
      if (upper[p] + slack >= peak.value && p != promising) peak = sample(p, peak);
    }
    return peak;
  }

  Peak<Acc> sample(int64_t patch, Peak<Acc> peak) const {
    const int64_t y = patch / (layout_.width + 1), x = patch % (layout_.width + 1);
    const Window window{y_starts_[y], y_starts_[y + 1], x_starts_[x], x_starts_[x + 1]};
    if (window.y0 == window.y1 || window.x0 == window.x1) return peak;
    const Acc* cells = patches_.cells.data() + y * patches_.columns + x;
    if (is_flat([&](int64_t k, int64_t l) { return cells[k * patches_.columns + l]; })) {
      const Peak<Acc> first{cells[0], window.y0, window.x0};
      return peak.is_behind(first) ? first : peak;
    }
    return dispatch<Sample<Acc>>(cells, patches_.columns, &y_axis_, &x_axis_, window, peak);
  }

  const HeatmapLayout layout_;
  const T* heatmaps_;
  const Acc* boxes_;
  Patches<Acc> patches_;
  int64_t box_ = -1;
  bool is_finite_ = false;
  KeypointAxis<Acc> x_axis_{}, y_axis_{};
  std::vector<int64_t> x_starts_, y_starts_;
};

Tensor decode_keypoints(const Tensor& heatmaps, const Tensor& boxes_tensor) {
  const HeatmapLayout layout = check_keypoints(heatmaps, boxes_tensor);
  const Tensor boxes = torch::stable::contiguous(boxes_tensor);
  Tensor output = torch::stable::new_empty(boxes, {layout.boxes, layout.keypoints, 3});
  for_floating_type(heatmaps, "heatmaps", [&](auto type) {
    using T = decltype(type);
    using Acc = Accumulator<T>;
    const T* from = heatmaps.const_data_ptr<T>();
    const Acc* box = boxes.const_data_ptr<Acc>();
    Acc* to = output.mutable_data_ptr<Acc>();
    torch::stable::parallel_for(0, layout.boxes * layout.keypoints, 1, [&](int64_t begin, int64_t end) {
      Decoder<T> decoder(layout, from, box);
      for (int64_t i = begin; i < end; ++i) decoder.decode(i / layout.keypoints, i % layout.keypoints, to + 3 * i);
    });
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) { m.impl("decode_keypoints", TORCH_BOX(&decode_keypoints)); }

}  // namespace maskrcnn
