// RoIAlign on CUDA (Mask R-CNN §3). Features and gradients as NHWC, with neighbouring threads on neighbouring channels:
// their loads, stores and atomic additions are one transaction, and they take the same way through a bin's taps.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "cuda.cuh"
#include "roi_align.h"

namespace maskrcnn {
namespace {

// A thread reads up to 16 bytes at once.
template <typename T>
constexpr int kWidest = 16 / sizeof(T);

template <typename T, int V>
struct alignas(V * sizeof(T)) Pack {
  T value[V];
};

// Kernels take it by value. Levels without features (the gradient of the mean) have none.
template <typename T>
struct Levels {
  T* data[kMaxLevels];

  // From channel c on, the pixels of the box's image.
  template <typename Acc>
  __device__ T* image(const RoIBox<Acc>& box, const RoIAlign& p, int64_t c) const {
    const RoIAlignLevel& level = p.level[box.level];
    return data[box.level] + box.image * level.height * level.width * p.channels + c;
  }
};

// ---- layout ------------------------------------------------------------------------------------------------------

constexpr int kTile = 32;

// to[b][c][r] = from[b][r][c], through tiles in shared memory, so that both sides are read and written in order.
template <typename From, typename To>
__global__ void transpose_kernel(const From* from, To* to, int64_t batch, int64_t rows, int64_t cols) {
  __shared__ To tile[kTile][kTile + 1];
  const int64_t tiles_r = (rows + kTile - 1) / kTile, tiles_c = (cols + kTile - 1) / kTile;
  const int lane = threadIdx.x % kTile, line = threadIdx.x / kTile, lines = blockDim.x / kTile;
  for (int64_t t = blockIdx.x; t < batch * tiles_r * tiles_c; t += gridDim.x) {
    const int64_t c0 = t % tiles_c * kTile, r0 = t / tiles_c % tiles_r * kTile;
    const int64_t base = t / (tiles_c * tiles_r) * rows * cols;
    for (int i = line; i < kTile && r0 + i < rows; i += lines) {
      if (c0 + lane < cols) tile[i][lane] = static_cast<To>(from[base + (r0 + i) * cols + c0 + lane]);
    }
    __syncthreads();
    for (int i = line; i < kTile && c0 + i < cols; i += lines) {
      if (r0 + lane < rows) to[base + (c0 + i) * rows + r0 + lane] = tile[lane][i];
    }
    __syncthreads();
  }
}

template <typename From, typename To>
void transpose(const Tensor& where, const From* from, To* to, int64_t batch, int64_t rows, int64_t cols) {
  const int64_t tiles = batch * ((rows + kTile - 1) / kTile) * ((cols + kTile - 1) / kTile);
  launch(where, transpose_kernel<From, To>, std::min<int64_t>(tiles, 1 << 20), kThreads, from, to, batch, rows, cols);
}

template <typename From, typename To>
__global__ void convert_kernel(const From* from, To* to, int64_t count) {
  MASKRCNN_GRID_STRIDE(i, count) { to[i] = static_cast<To>(from[i]); }
}

// (N, C, H, W) as NHWC: itself, or a copy.
template <typename T>
Tensor to_channels_last(const Tensor& input) {
  if (is_channels_last(input)) return input;
  const Tensor source = torch::stable::contiguous(input);
  Tensor copy = new_channels_last(input, input.size(0), input.size(1), input.size(2), input.size(3));
  transpose(input, source.const_data_ptr<T>(), copy.mutable_data_ptr<T>(), input.size(0), input.size(1),
            input.size(2) * input.size(3));
  return copy;
}

// (n, h, w, c) of sums or results as (n, c, h, w) in T, in this layout.
template <typename T, typename From>
Tensor finish(const Tensor& nhwc, const Tensor& like, bool channels_last) {
  if (channels_last && std::is_same_v<T, From>) return channels_first(nhwc);
  const int64_t n = nhwc.size(0), h = nhwc.size(1), w = nhwc.size(2), c = nhwc.size(3);
  const From* from = nhwc.const_data_ptr<From>();
  if (channels_last) {
    Tensor output = new_channels_last(like, n, c, h, w);
    launch(like, convert_kernel<From, T>, blocks_for(nhwc.numel()), kThreads, from, output.mutable_data_ptr<T>(),
           nhwc.numel());
    return output;
  }
  Tensor output = torch::stable::new_empty(like, {n, c, h, w});
  transpose(like, from, output.mutable_data_ptr<T>(), n, h * w, c);
  return output;
}

// ---- one bin -----------------------------------------------------------------------------------------------------

template <typename T, int V, typename Acc>
__device__ void load(const T* from, Acc* to) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(from);
  for (int v = 0; v < V; ++v) to[v] = static_cast<Acc>(pack.value[v]);
}

// Calls visit(offset, weight) for the taps of bin (p, q): where its pixel begins, and its share in the mean.
template <typename Acc, typename Visit>
__device__ void for_each_tap(const RoIBox<Acc>& box, const RoIAlign& problem, int64_t p, int64_t q, Visit visit) {
  const RoIAlignLevel& level = problem.level[box.level];
  BinTaps<Acc> rows(box.y, p, level.height);
  int64_t y = 0, x = 0;
  for (Acc weight_y = 0; rows.next(&y, &weight_y);) {
    BinTaps<Acc> cols(box.x, q, level.width);
    for (Acc weight_x = 0; cols.next(&x, &weight_x);) {
      visit((y * level.width + x) * problem.channels, weight_y * weight_x);
    }
  }
}

// The greatest sample of bin (p, q) in V channels, and which it is; without samples zero. `found` is -1 for a zero that
// no pixel gave.
template <typename T, int V, typename Acc>
__device__ void greatest_sample(const T* image, const RoIBox<Acc>& box, const RoIAlign& problem, int64_t p, int64_t q,
                                Acc* best, int64_t* found_row, int64_t* found_col) {
  const RoIAlignLevel& level = problem.level[box.level];
  int64_t row_begin, row_end, col_begin, col_end;
  samples_within(box.y, p, -1.0, double(level.height), &row_begin, &row_end);
  samples_within(box.x, q, -1.0, double(level.width), &col_begin, &col_end);
  const bool none = row_begin >= row_end || col_begin >= col_end;
  for (int v = 0; v < V; ++v) {
    best[v] = none ? Acc(0) : -Acc(INFINITY);
    found_row[v] = found_col[v] = -1;
  }
  for (int64_t i = row_begin; i < row_end; ++i) {
    const RoISample<Acc> y = roi_sample(box.y, p, i, level.height);
    for (int64_t j = col_begin; j < col_end; ++j) {
      const RoISample<Acc> x = roi_sample(box.x, q, j, level.width);
      const bool inside = y.inside && x.inside;
      Acc value[V] = {}, tap[V];
      const auto add = [&](int64_t row, int64_t col, Acc weight) {
        load<T, V>(image + (row * level.width + col) * problem.channels, tap);
        for (int v = 0; v < V; ++v) value[v] += weight * tap[v];
      };
      if (inside) {
        add(y.low, x.low, y.weight_low * x.weight_low);
        add(y.low, x.high, y.weight_low * x.weight_high);
        add(y.high, x.low, y.weight_high * x.weight_low);
        add(y.high, x.high, y.weight_high * x.weight_high);
      }
      for (int v = 0; v < V; ++v) {
        if (!is_better(value[v], best[v])) continue;
        best[v] = value[v];
        found_row[v] = inside ? i : -1;
        found_col[v] = inside ? j : -1;
      }
    }
  }
}

// ---- kernels -----------------------------------------------------------------------------------------------------

// A block takes a row of bins of a box, a thread V channels of a bin.
template <typename T, int V>
__global__ void forward_kernel(Levels<const T> features, const Accumulator<T>* rois, RoIAlign problem, T* output) {
  using Acc = Accumulator<T>;
  const int64_t packs = problem.channels / V;
  for (int64_t job = blockIdx.x; job < problem.rows() * problem.bins_h; job += gridDim.x) {
    const int64_t r = job / problem.bins_h, p = job % problem.bins_h;
    const RoIBox<Acc> box = roi_box(rois, r, problem);
    for (int64_t k = threadIdx.x; k < problem.bins_w * packs; k += blockDim.x) {
      const int64_t q = k / packs, c = k % packs * V;
      Acc result[V];
      for (int v = 0; v < V; ++v) result[v] = box.valid ? Acc(0) : Acc(NAN);
      if (box.valid) {
        const T* image = features.image(box, problem, c);
        if (problem.maximum) {
          int64_t found_row[V], found_col[V];
          greatest_sample<T, V>(image, box, problem, p, q, result, found_row, found_col);
        } else {
          for_each_tap(box, problem, p, q, [&](int64_t offset, Acc weight) {
            Acc tap[V];
            load<T, V>(image + offset, tap);
            for (int v = 0; v < V; ++v) result[v] += weight * tap[v];
          });
        }
      }
      Pack<T, V> pack;
      for (int v = 0; v < V; ++v) pack.value[v] = static_cast<T>(result[v]);
      *reinterpret_cast<Pack<T, V>*>(output + (job * problem.bins_w + q) * problem.channels + c) = pack;
    }
  }
}

// Every bin adds to the pixels that it read: quick, but the order of the additions is nobody's choice.
template <typename T, int V>
__global__ void scatter_kernel(const T* grad, Levels<const T> features, const Accumulator<T>* rois, RoIAlign problem,
                               Levels<Accumulator<T>> sums) {
  using Acc = Accumulator<T>;
  const int64_t packs = problem.channels / V;
  for (int64_t job = blockIdx.x; job < problem.rows() * problem.bins_h; job += gridDim.x) {
    const int64_t r = job / problem.bins_h, p = job % problem.bins_h;
    const RoIBox<Acc> box = roi_box(rois, r, problem);
    if (!box.valid) continue;
    const RoIAlignLevel& level = problem.level[box.level];
    for (int64_t k = threadIdx.x; k < problem.bins_w * packs; k += blockDim.x) {
      const int64_t q = k / packs, c = k % packs * V;
      Acc bin[V];
      load<T, V>(grad + (job * problem.bins_w + q) * problem.channels + c, bin);
      Acc* image = sums.image(box, problem, c);
      if (!problem.maximum) {
        for_each_tap(box, problem, p, q, [&](int64_t offset, Acc weight) {
          for (int v = 0; v < V; ++v) atomicAdd(image + offset + v, weight * bin[v]);
        });
        continue;
      }
      Acc best[V];
      int64_t found_row[V], found_col[V];
      greatest_sample<T, V>(features.image(box, problem, c), box, problem, p, q, best, found_row, found_col);
      for (int v = 0; v < V; ++v) {
        if (found_row[v] < 0) continue;
        const RoISample<Acc> y = roi_sample(box.y, p, found_row[v], level.height);
        const RoISample<Acc> x = roi_sample(box.x, q, found_col[v], level.width);
        const auto add = [&](int64_t row, int64_t col, Acc weight) {
          atomicAdd(image + (row * level.width + col) * problem.channels + v, weight * bin[v]);
        };
        add(y.low, x.low, y.weight_low * x.weight_low);
        add(y.low, x.high, y.weight_low * x.weight_high);
        add(y.high, x.low, y.weight_high * x.weight_low);
        add(y.high, x.high, y.weight_high * x.weight_high);
      }
    }
  }
}

// The samples that read pixel `at` of an axis lie here.
struct Reach {
  double low, high;
};
__device__ inline Reach reach_of(int64_t at, int64_t size) {
  return {at == 0 ? -1.0 : double(at - 1), at == size - 1 ? double(size) : double(at + 1)};
}

template <typename Acc>
__device__ Acc weight_at(const RoISample<Acc>& sample, int64_t at) {
  if (!sample.inside) return Acc(0);
  return (sample.low == at ? sample.weight_low : Acc(0)) + (sample.high == at ? sample.weight_high : Acc(0));
}

// The weight of pixel `at` in the mean of bin p along one axis.
template <typename Acc>
__device__ Acc weight_in_bin(const RoIAxis<Acc>& axis, int64_t p, int64_t at, int64_t size) {
  const Reach reach = reach_of(at, size);
  int64_t first, last;
  samples_within(axis, p, reach.low, reach.high, &first, &last);
  Acc total = 0;
  for (int64_t i = first; i < last; ++i) total += weight_at(roi_sample(axis, p, i, size), at);
  return total / Acc(axis.samples > 0 ? axis.samples : 1);
}

// Whether a box may read pixels first..last of an axis; with a margin.
template <typename Acc>
__device__ bool touches(const RoIAxis<Acc>& axis, int64_t bins, int64_t first, int64_t last) {
  const double a = double(axis.start), b = a + double(axis.bin) * double(bins);
  return (a < b ? a : b) - 2.0 <= double(last) && (a < b ? b : a) + 2.0 >= double(first);
}

// Every pixel of a level asks the boxes, in their order, for what they owe it: no atomics, the same bits every time.
// A block tests the boxes against its pixels, one box a thread, and the pixels look only at those that may touch them.
template <typename T, int V>
__global__ void gather_kernel(const T* grad, Levels<const T> features, const Accumulator<T>* rois, RoIAlign problem,
                              int64_t k, Accumulator<T>* sums) {
  using Acc = Accumulator<T>;
  __shared__ bool near[kThreads];
  const RoIAlignLevel& level = problem.level[k];
  const int64_t packs = problem.channels / V, rows = problem.rows();
  const int64_t count = problem.images * level.height * level.width * packs;
  for (int64_t begin = blockIdx.x * static_cast<int64_t>(blockDim.x); begin < count;
       begin += gridDim.x * static_cast<int64_t>(blockDim.x)) {
    const int64_t item = begin + threadIdx.x;
    const int64_t end = begin + blockDim.x < count ? begin + blockDim.x : count;
    const int64_t first_line = begin / packs / level.width, last_line = (end - 1) / packs / level.width;
    const int64_t first_x = first_line == last_line ? begin / packs % level.width : 0;
    const int64_t last_x = first_line == last_line ? (end - 1) / packs % level.width : level.width - 1;
    const int64_t first_image = first_line / level.height, last_image = last_line / level.height;
    const int64_t first_y = first_image == last_image ? first_line % level.height : 0;
    const int64_t last_y = first_image == last_image ? last_line % level.height : level.height - 1;

    const int64_t c = item % packs * V, x = item / packs % level.width, line = item / packs / level.width;
    const int64_t y = line % level.height, image = line / level.height;
    const Reach reach_y = reach_of(y, level.height), reach_x = reach_of(x, level.width);
    Acc sum[V] = {};
    for (int64_t r0 = 0; r0 < rows; r0 += blockDim.x) {
      bool mine = false;
      if (r0 + threadIdx.x < rows) {
        const RoIBox<Acc> box = roi_box(rois, r0 + threadIdx.x, problem);
        mine = box.valid && box.level == k && box.image >= first_image && box.image <= last_image &&
               touches(box.y, problem.bins_h, first_y, last_y) && touches(box.x, problem.bins_w, first_x, last_x);
      }
      near[threadIdx.x] = mine;
      __syncthreads();
      for (int64_t r = r0; r < r0 + blockDim.x && r < rows && item < count; ++r) {
        if (!near[r - r0]) continue;
        const RoIBox<Acc> box = roi_box(rois, r, problem);
        if (box.image != image) continue;
        int64_t first_p, last_p, first_q, last_q;
        members_within(box.y.start, box.y.bin, problem.bins_h, reach_y.low, reach_y.high, &first_p, &last_p);
        members_within(box.x.start, box.x.bin, problem.bins_w, reach_x.low, reach_x.high, &first_q, &last_q);
        for (int64_t p = first_p; p < last_p; ++p) {
          const Acc weight_y = weight_in_bin(box.y, p, y, level.height);
          if (weight_y == Acc(0)) continue;
          for (int64_t q = first_q; q < last_q; ++q) {
            const Acc weight_x = weight_in_bin(box.x, q, x, level.width);
            if (weight_x == Acc(0)) continue;
            Acc bin[V];
            load<T, V>(grad + (r * problem.bins() + p * problem.bins_w + q) * problem.channels + c, bin);
            if (!problem.maximum) {
              for (int v = 0; v < V; ++v) sum[v] += weight_y * weight_x * bin[v];
              continue;
            }
            Acc best[V];
            int64_t found_row[V], found_col[V];
            greatest_sample<T, V>(features.image(box, problem, c), box, problem, p, q, best, found_row, found_col);
            for (int v = 0; v < V; ++v) {
              if (found_row[v] < 0) continue;
              sum[v] += weight_at(roi_sample(box.y, p, found_row[v], level.height), y) *
                        weight_at(roi_sample(box.x, q, found_col[v], level.width), x) * bin[v];
            }
          }
        }
      }
      __syncthreads();
    }
    if (item < count) {
      for (int v = 0; v < V; ++v) sums[item / packs * problem.channels + c + v] = sum[v];
    }
  }
}

// ---- operators ---------------------------------------------------------------------------------------------------

template <typename T>
bool fits(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// Calls body(std::integral_constant<int, V>()) with the channels that a thread takes.
template <typename T, typename Body>
void for_width(bool wide, Body body) {
  if (wide) {
    body(std::integral_constant<int, kWidest<T>>());
  } else {
    body(std::integral_constant<int, 1>());
  }
}

int64_t jobs(const RoIAlign& p) { return std::min<int64_t>(p.rows() * p.bins_h, 1 << 20); }

template <typename T>
Tensor forward(const std::vector<Tensor>& features, const Tensor& rois_tensor, const RoIAlign& p) {
  using Acc = Accumulator<T>;
  Tensor output = torch::stable::new_empty(features[0], {p.rows(), p.bins_h, p.bins_w, p.channels});
  const bool last = is_channels_last(features[0]);
  if (output.numel() > 0) {
    const Tensor rois = torch::stable::contiguous(rois_tensor);
    std::vector<Tensor> sources;
    Levels<const T> levels{};
    bool wide = p.channels % kWidest<T> == 0;
    for (const Tensor& level : features) {
      sources.push_back(to_channels_last<T>(level));
      const T* data = sources.back().template const_data_ptr<T>();
      levels.data[sources.size() - 1] = data;
      wide = wide && fits(data);
    }
    for_width<T>(wide, [&](auto width) {
      launch(output, forward_kernel<T, width()>, jobs(p), kThreads, levels, rois.const_data_ptr<Acc>(), p,
             output.mutable_data_ptr<T>());
    });
  }
  return finish<T, T>(output, features[0], last);
}

template <typename T>
std::vector<Tensor> backward(const Tensor& grad_tensor, const std::vector<Tensor>& features, const Tensor& rois_tensor,
                             const RoIAlign& p, bool channels_last, bool deterministic) {
  using Acc = Accumulator<T>;
  const Tensor rois = torch::stable::contiguous(rois_tensor), grad = to_channels_last<T>(grad_tensor);
  const T* grads = grad.const_data_ptr<T>();
  bool wide = p.channels % kWidest<T> == 0 && fits(grads);
  std::vector<Tensor> sources, sums;
  Levels<const T> feature_levels{};
  Levels<Acc> sum_levels{};
  for (const Tensor& level : features) {
    sources.push_back(to_channels_last<T>(level));
    const T* data = sources.back().template const_data_ptr<T>();
    feature_levels.data[sources.size() - 1] = data;
    wide = wide && fits(data);
  }
  for (int64_t k = 0; k < p.levels; ++k) {
    sums.push_back(torch::stable::new_zeros(grad, {p.images, p.level[k].height, p.level[k].width, p.channels},
                                            scalar_type_of<Acc>));
    sum_levels.data[k] = sums.back().template mutable_data_ptr<Acc>();
  }
  if (grad.numel() > 0) {
    const Acc* boxes = rois.const_data_ptr<Acc>();
    for_width<T>(wide, [&](auto width) {
      constexpr int V = width();
      if (!deterministic) {
        launch(grad, scatter_kernel<T, V>, jobs(p), kThreads, grads, feature_levels, boxes, p, sum_levels);
        return;
      }
      for (int64_t k = 0; k < p.levels; ++k) {
        launch(grad, gather_kernel<T, V>, blocks_for(sums[k].numel() / V), kThreads, grads, feature_levels, boxes, p, k,
               sum_levels.data[k]);
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

std::vector<Tensor> roi_align_backward(const Tensor& grad, std::vector<Tensor> features, const Tensor& rois,
                                       std::vector<int64_t> sizes, std::vector<double> scales, int64_t sampling_ratio,
                                       bool aligned, bool rounded, bool maximum,
                                       std::optional<std::vector<double>> level_rule, bool channels_last,
                                       bool deterministic) {
  const RoIAlign p = roi_align_backward_problem(grad, features, rois, sizes,
                                                {scales, sampling_ratio, aligned, rounded, maximum, level_rule});
  return for_floating_type(grad, "grad", [&](auto type) {
    return backward<decltype(type)>(grad, features, rois, p, channels_last, deterministic);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, MASKRCNN_CUDA, m) {
  m.impl("roi_align", TORCH_BOX(&roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward));
}

}  // namespace maskrcnn
