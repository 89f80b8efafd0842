// CUDA's words for a C++ compiler, so that the kernels' logic is tested where there is no GPU: the threads of a block
// are fibers, which __syncthreads switches; blocks run one after the other. Says nothing of speed, nor of races.
#pragma once

#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

#include "common.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define MASKRCNN_CUDA CPU
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

namespace maskrcnn {

struct Index {
  unsigned x = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address += value;
  return before;
}

namespace fibers {

constexpr size_t kStack = 64 * 1024;
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done;
};
inline ucontext_t scheduler;
inline Fiber* current = nullptr;
inline std::function<void()> work;

// From the running context to another, of which AddressSanitizer must know the stack. `ends`: the running one does.
inline void switch_context(ucontext_t& from, ucontext_t& to, const void* stack, size_t size, bool ends = false) {
#ifdef __SANITIZE_ADDRESS__
  void* frames = nullptr;
  __sanitizer_start_switch_fiber(ends ? nullptr : &frames, stack, size);
  swapcontext(&from, &to);
  __sanitizer_finish_switch_fiber(frames, nullptr, nullptr);
#else
  swapcontext(&from, &to);
#endif
}

inline const void* scheduler_stack = nullptr;
inline size_t scheduler_size = 0;

inline void to_scheduler(bool ends) {
  switch_context(current->context, scheduler, scheduler_stack, scheduler_size, ends);
}

inline void to_fiber(Fiber& fiber) {
  current = &fiber;
  switch_context(scheduler, fiber.context, fiber.stack.get(), kStack);
}

inline void enter() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
  work();
  current->done = true;
  to_scheduler(true);
}

inline std::vector<Fiber>& pool() {
  static std::vector<Fiber> fibers;
  return fibers;
}

}  // namespace fibers

inline void __syncthreads() { fibers::to_scheduler(false); }

template <typename... Parameters, typename... Args>
void launch(const Tensor&, void (*kernel)(Parameters...), int64_t blocks, int threads, Args... args) {
  fibers::work = [=] { kernel(static_cast<Parameters>(args)...); };
  auto& pool = fibers::pool();
  while (static_cast<int>(pool.size()) < threads) {
    pool.push_back({{}, std::make_unique<char[]>(fibers::kStack), false});
  }
  gridDim.x = static_cast<unsigned>(blocks);
  blockDim.x = static_cast<unsigned>(threads);
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = static_cast<unsigned>(block);
    for (int t = 0; t < threads; ++t) {
      fibers::Fiber& fiber = pool[t];
      fiber.done = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = fibers::kStack;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, &fibers::enter, 0);
    }
    for (int running = threads; running > 0;) {  // each round takes every thread to its next barrier, or to its end
      for (int t = 0; t < threads; ++t) {
        if (pool[t].done) continue;
        threadIdx.x = static_cast<unsigned>(t);
        fibers::to_fiber(pool[t]);
        if (pool[t].done) --running;
      }
    }
  }
}

}  // namespace maskrcnn
