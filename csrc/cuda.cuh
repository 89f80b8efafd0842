// What the CUDA kernels share: launching on the current stream of a tensor's device.
//
// Kernels keep to threadIdx, blockIdx, blockDim, gridDim (x alone), static __shared__ arrays, __syncthreads and
// atomicAdd, so that tests/ops/cuda_on_cpu can run their very source on machines without a GPU.
#pragma once

#include <limits>

#include "common.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#define MASKRCNN_CUDA CUDA  // the dispatch key
#else
#include "cuda_on_cpu.h"
#endif

namespace maskrcnn {

constexpr int kThreads = 256;

// Blocks for n items that a grid-stride loop works through.
inline int64_t blocks_for(int64_t n, int threads = kThreads) {
  return std::min<int64_t>((n + threads - 1) / threads, 1 << 20);
}

// The loop over items 0..n-1 of a kernel launched with blocks_for(n).
#define MASKRCNN_GRID_STRIDE(i, n)                                                     \
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < (n); \
       i += gridDim.x * static_cast<int64_t>(blockDim.x))

// ---- maps --------------------------------------------------------------------------------------------------------

struct Element {
  int64_t n, c, y, x;
};

// a = quotient * b + remainder. Most sizes fit 32 bits, whose division is several times cheaper.
MASKRCNN_HOST_DEVICE inline int64_t divide(int64_t a, int64_t b, int64_t* remainder) {
  if (((a | b) >> 32) == 0) {
    const uint32_t quotient = static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    *remainder = static_cast<uint32_t>(a) - quotient * static_cast<uint32_t>(b);
    return quotient;
  }
  *remainder = a % b;
  return a / b;
}

// A dense (N, C, H, W) in either layout.
struct MapLayout {
  int64_t images, channels, height, width;
  bool channels_last;

  MASKRCNN_HOST_DEVICE int64_t numel() const { return images * channels * height * width; }

  MASKRCNN_HOST_DEVICE int64_t at(int64_t n, int64_t c, int64_t pixel) const {
    const int64_t pixels = height * width;
    return channels_last ? (n * pixels + pixel) * channels + c : (n * channels + c) * pixels + pixel;
  }

  // What lies at this place in memory: `at` the other way round.
  MASKRCNN_HOST_DEVICE Element element(int64_t place) const {
    Element e;
    if (channels_last) place = divide(place, channels, &e.c);
    place = divide(place, width, &e.x);
    place = divide(place, height, &e.y);
    if (!channels_last) place = divide(place, channels, &e.c);
    e.n = place;
    return e;
  }
};

// `t` itself where it is dense in one of the two layouts, else a copy.
inline Tensor dense_map(const Tensor& t) { return is_channels_last(t) ? t : torch::stable::contiguous(t); }

inline MapLayout layout_of(const Tensor& dense) {
  return {dense.size(0), dense.size(1), dense.size(2), dense.size(3), is_channels_last(dense)};
}

inline Tensor new_map(const Tensor& like, const MapLayout& m, ScalarType type) {
  if (!m.channels_last) return torch::stable::new_empty(like, {m.images, m.channels, m.height, m.width}, type);
  return channels_first(torch::stable::new_empty(like, {m.images, m.height, m.width, m.channels}, type));
}

// The image of a RoI, or -1 where there is none of that index: to say so would take a wait for the device.
template <typename Acc>
MASKRCNN_HOST_DEVICE int64_t image_of(const Acc* roi, int64_t images) {
  return roi[0] >= Acc(0) && roi[0] < Acc(images) ? int64_t(roi[0]) : -1;
}

// ---- launches ----------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
// kernel<<<blocks, threads>>>(args...) on the device of `where` and its current stream; nothing for no blocks.
template <typename... Parameters, typename... Args>
void launch(const Tensor& where, void (*kernel)(Parameters...), int64_t blocks, int threads, Args... args) {
  if (blocks == 0) return;
  const int32_t device = where.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(args...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA kernel: ") + cudaGetErrorString(error));
}
#endif

}  // namespace maskrcnn
