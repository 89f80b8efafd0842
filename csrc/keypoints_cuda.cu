// Keypoints from heat maps on CUDA: a block of threads per map. It bounds the patches, each thread its own, and samples
// those that can hold the maximum with all threads together, so that large boxes keep them all busy.
#include <torch/csrc/stable/library.h>

#include "cuda.cuh"
#include "keypoints.h"

namespace maskrcnn {
namespace {

// One map, its edge repeated beyond it.
template <typename T>
struct Map {
  using Acc = Accumulator<T>;
  const T* data;
  int64_t height, width, row_stride, column_stride;

  MASKRCNN_HOST_DEVICE Acc at(int64_t y, int64_t x) const {
    y = y < 0 ? 0 : y < height ? y : height - 1;
    x = x < 0 ? 0 : x < width ? x : width - 1;
    return static_cast<Acc>(data[y * row_stride + x * column_stride]);
  }
};

// The bound of the patch between cells (y, x) and (y + 1, x + 1).
template <typename T, typename Acc = Accumulator<T>>
MASKRCNN_HOST_DEVICE Acc patch_bound(const Map<T>& map, int64_t y, int64_t x) {
  Acc row[4];
  for (int64_t k = 0; k < 4; ++k) {
    const int64_t v = y - 1 + k;
    const Acc a = map.at(v, x - 1), b = map.at(v, x), c = map.at(v, x + 1), d = map.at(v, x + 2);
    row[k] = k == 0 || k == 3 ? cubic_lower(a, b, c, d) : cubic_upper(a, b, c, d);
  }
  return cubic_upper(row[0], row[1], row[2], row[3]);
}

template <typename T, typename Acc = Accumulator<T>>
MASKRCNN_HOST_DEVICE Acc sample(const Map<T>& map, const KeypointAxis<Acc>& y_axis, const KeypointAxis<Acc>& x_axis,
                                int64_t i, int64_t j) {
  const Acc y = y_axis.position(i), x = x_axis.position(j);
  const Acc cell_y = std::floor(y), cell_x = std::floor(x);
  Acc weight_y[4], weight_x[4], row[4];
  cubic_weights(y - cell_y, weight_y);
  cubic_weights(x - cell_x, weight_x);
  const int64_t u = static_cast<int64_t>(cell_x);
  for (int64_t k = 0; k < 4; ++k) {
    const int64_t v = static_cast<int64_t>(cell_y) - 1 + k;
    row[k] = weighted(weight_x, map.at(v, u - 1), map.at(v, u), map.at(v, u + 1), map.at(v, u + 2));
  }
  return weighted(weight_y, row[0], row[1], row[2], row[3]);
}

// The best of `peak` and what this thread finds among every blockDim.x-th sample of the patch after cell (y, x).
template <typename T, typename Acc = Accumulator<T>>
__device__ Peak<Acc> search(const Map<T>& map, const KeypointAxis<Acc>& y_axis, const KeypointAxis<Acc>& x_axis,
                            int64_t y, int64_t x, Peak<Acc> peak) {
  const int64_t y0 = y_axis.first_sample(y), x0 = x_axis.first_sample(x);
  const int64_t width = x_axis.first_sample(x + 1) - x0, count = (y_axis.first_sample(y + 1) - y0) * width;
  if (count > 0 && is_flat([&](int64_t k, int64_t l) { return map.at(y - 1 + k, x - 1 + l); })) {
    const Peak<Acc> first{map.at(y, x), y0, x0};
    return peak.is_behind(first) ? first : peak;
  }
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    Peak<Acc> candidate{Acc(0), y0 + i / width, x0 + i % width};
    candidate.value = sample(map, y_axis, x_axis, candidate.y, candidate.x);
    if (peak.is_behind(candidate)) peak = candidate;
  }
  return peak;
}

// The best of all threads' peaks, in all threads.
template <typename Acc>
__device__ Peak<Acc> best_of_block(Peak<Acc> mine) {
  __shared__ Acc value[kThreads];
  __shared__ int64_t y[kThreads], x[kThreads];
  const int t = static_cast<int>(threadIdx.x);
  value[t] = mine.value;
  y[t] = mine.y;
  x[t] = mine.x;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t >= half) continue;
    const Peak<Acc> here{value[t], y[t], x[t]}, there{value[t + half], y[t + half], x[t + half]};
    if (!here.is_behind(there)) continue;
    value[t] = there.value;
    y[t] = there.y;
    x[t] = there.x;
  }
  __syncthreads();
  const Peak<Acc> best{value[0], y[0], x[0]};
  __syncthreads();  // the next call writes
  return best;
}

// The largest magnitude of the map, infinite for a map without a maximum.
template <typename T, typename Acc = Accumulator<T>>
__device__ Acc largest_magnitude(const Map<T>& map) {
  Peak<Acc> largest = no_peak<Acc>();
  for (int64_t i = threadIdx.x; i < map.height * map.width; i += blockDim.x) {
    const Acc v = std::abs(map.at(i / map.width, i % map.width));
    const Acc magnitude = v <= largest_logit<Acc>() ? v : kInfinity<Acc>;
    if (magnitude > largest.value) largest.value = magnitude;
  }
  return best_of_block(largest).value;
}

template <typename T, typename Acc = Accumulator<T>>
__device__ Peak<Acc> find_peak(const Map<T>& map, const KeypointAxis<Acc>& y_axis, const KeypointAxis<Acc>& x_axis,
                               Acc slack) {
  __shared__ bool is_candidate[kThreads];
  const int64_t columns = map.width + 1, patches = (map.height + 1) * columns;
  // The most promising patch first, so that few others are left.
  Peak<Acc> promising = no_peak<Acc>();
  for (int64_t p = threadIdx.x; p < patches; p += blockDim.x) {
    const Peak<Acc> patch{patch_bound(map, p / columns - 1, p % columns - 1), p / columns - 1, p % columns - 1};
    if (promising.is_behind(patch)) promising = patch;
  }
  promising = best_of_block(promising);
  Peak<Acc> peak = best_of_block(search(map, y_axis, x_axis, promising.y, promising.x, no_peak<Acc>()));
  const Acc least = peak.value - slack;
  for (int64_t first = 0; first < patches; first += blockDim.x) {
    const int64_t mine = first + threadIdx.x;
    is_candidate[threadIdx.x] = mine < patches && patch_bound(map, mine / columns - 1, mine % columns - 1) >= least;
    __syncthreads();
    for (int64_t k = 0; k < blockDim.x; ++k) {
      const int64_t p = first + k;
      if (is_candidate[k]) peak = search(map, y_axis, x_axis, p / columns - 1, p % columns - 1, peak);
    }
    __syncthreads();
  }
  return best_of_block(peak);
}

template <typename T>
__global__ void decode_kernel(HeatmapLayout layout, const T* heatmaps, const Accumulator<T>* boxes,
                              Accumulator<T>* output) {
  using Acc = Accumulator<T>;
  for (int64_t i = blockIdx.x; i < layout.boxes * layout.keypoints; i += gridDim.x) {
    const int64_t r = i / layout.keypoints, k = i % layout.keypoints;
    const Map<T> map{heatmaps + r * layout.box_stride + k * layout.keypoint_stride, layout.height, layout.width,
                     layout.row_stride, layout.column_stride};
    const Acc* box = boxes + 4 * r;
    KeypointAxis<Acc> x_axis{}, y_axis{};
    Acc* out = output + 3 * i;
    bool good = keypoint_axis(box[0], box[2], layout.width, &x_axis) &&
                keypoint_axis(box[1], box[3], layout.height, &y_axis);
    Acc largest = Acc(0);
    if (good) {  // the same for all threads of the block
      largest = largest_magnitude(map);
      good = std::isfinite(largest);
    }
    Peak<Acc> peak{};
    if (good) peak = find_peak(map, y_axis, x_axis, rounding_slack(largest));
    if (threadIdx.x > 0) continue;
    out[0] = good ? x_axis.point(peak.x) : kNaN<Acc>;
    out[1] = good ? y_axis.point(peak.y) : kNaN<Acc>;
    out[2] = good ? peak.value : kNaN<Acc>;
  }
}

Tensor decode_keypoints(const Tensor& heatmaps, const Tensor& boxes_tensor) {
  const HeatmapLayout layout = check_keypoints(heatmaps, boxes_tensor);
  const Tensor boxes = torch::stable::contiguous(boxes_tensor);
  Tensor output = torch::stable::new_empty(boxes, {layout.boxes, layout.keypoints, 3});
  for_floating_type(heatmaps, "heatmaps", [&](auto type) {
    using T = decltype(type);
    using Acc = Accumulator<T>;
    const int64_t blocks = std::min<int64_t>(layout.boxes * layout.keypoints, 1 << 20);
    launch(heatmaps, decode_kernel<T>, blocks, kThreads, layout, heatmaps.const_data_ptr<T>(),
           boxes.const_data_ptr<Acc>(), output.mutable_data_ptr<Acc>());
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, MASKRCNN_CUDA, m) { m.impl("decode_keypoints", TORCH_BOX(&decode_keypoints)); }

}  // namespace maskrcnn
