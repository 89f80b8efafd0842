// What the CUDA kernels share: launching on the current stream of a tensor's device.
//
// Kernels keep to threadIdx, blockIdx, blockDim, gridDim (x alone), static __shared__ arrays, __syncthreads and
// atomicAdd, so that tests/ops/cuda_on_cpu can run their very source on machines without a GPU.
#pragma once

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
