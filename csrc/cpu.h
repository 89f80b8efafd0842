// What the CPU kernels share: the choice of instruction set at run time, and memory layouts.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "common.h"

#if defined(__GNUC__) || defined(__clang__)
#define MASKRCNN_INLINE inline __attribute__((always_inline))
#define MASKRCNN_RESTRICT __restrict__
#elif defined(_MSC_VER)
#define MASKRCNN_INLINE __forceinline
#define MASKRCNN_RESTRICT __restrict
#else
#define MASKRCNN_INLINE inline
#define MASKRCNN_RESTRICT
#endif

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__) && !defined(_MSC_VER)
#define MASKRCNN_X86_TARGETS 1
#include <immintrin.h>
#endif

namespace maskrcnn {

// ---- instruction sets --------------------------------------------------------------------------------------------
// Binaries travel, so there is no -march=native: the body of a kernel is compiled for several instruction sets, and
// the machine picks. `Kernel::run` and all that it calls must be MASKRCNN_INLINE, or it keeps the baseline's code.
// None of the sets brings fma into use (-ffp-contract=off; it gained nothing, memory is the limit), so every x86
// machine gives the same bits.

#ifdef MASKRCNN_X86_TARGETS
enum class InstructionSet { baseline, avx2, avx512 };

inline InstructionSet instruction_set() {
  static const InstructionSet found = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return InstructionSet::avx512;
    return __builtin_cpu_supports("avx2") ? InstructionSet::avx2 : InstructionSet::baseline;
  }();
  return found;
}

template <typename Kernel, typename... Args>
__attribute__((target("avx512f"))) auto run_avx512(Args... args) {
  return Kernel::run(args...);
}

template <typename Kernel, typename... Args>
__attribute__((target("avx2"))) auto run_avx2(Args... args) {
  return Kernel::run(args...);
}
#endif

template <typename Kernel, typename... Args>
auto dispatch(Args... args) {
#ifdef MASKRCNN_X86_TARGETS
  switch (instruction_set()) {
    case InstructionSet::avx512:
      return run_avx512<Kernel>(args...);
    case InstructionSet::avx2:
      return run_avx2<Kernel>(args...);
    case InstructionSet::baseline:
      break;
  }
#endif
  return Kernel::run(args...);
}

// ---- half types --------------------------------------------------------------------------------------------------
// Element by element, compilers make of a float16 twenty times the work of a float32; the instructions for it are as
// old as AVX2, but need their own intrinsics. Both ways give the same bits.

#ifdef MASKRCNN_X86_TARGETS
inline bool has_f16c() {
  static const bool found = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;  // every CPU with AVX2 has F16C, which older compilers cannot ask for
  }();
  return found;
}

// Eight at a time; returns how many are done.
__attribute__((target("avx,f16c"))) inline int64_t widen_f16c(const Half* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
  return i;
}

__attribute__((target("avx,f16c"))) inline int64_t narrow_f16c(const float* from, Half* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  }
  return i;
}
#endif

// to[i] = from[i], from a half type or into one, or between equal types.
template <typename From, typename To>
void convert(const From* from, To* to, int64_t count) {
  int64_t i = 0;
#ifdef MASKRCNN_X86_TARGETS
  if constexpr (std::is_same_v<From, Half> && std::is_same_v<To, float>) {
    if (has_f16c()) i = widen_f16c(from, to, count);
  } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, Half>) {
    if (has_f16c()) i = narrow_f16c(from, to, count);
  }
#endif
  for (; i < count; ++i) to[i] = static_cast<To>(from[i]);
}

// ---- memory layouts ----------------------------------------------------------------------------------------------

#ifdef MASKRCNN_X86_TARGETS
// 4 x 4 words: each load and store takes four of them, in SSE, which every x86-64 has.
inline void transpose_words(const void* src, int64_t src_stride, void* dst, int64_t dst_stride) {
  const float* from = static_cast<const float*>(src);
  float* to = static_cast<float*>(dst);
  __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + src_stride);
  __m128 c = _mm_loadu_ps(from + 2 * src_stride), d = _mm_loadu_ps(from + 3 * src_stride);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(to, a);
  _mm_storeu_ps(to + dst_stride, b);
  _mm_storeu_ps(to + 2 * dst_stride, c);
  _mm_storeu_ps(to + 3 * dst_stride, d);
}
#endif

// dst[c][r] = src[r][c], in blocks that stay in the cache: rows x cols with these row strides -> cols x rows.
template <typename Src, typename Dst>
void transpose(const Src* src, int64_t src_stride, Dst* dst, int64_t dst_stride, int64_t rows, int64_t cols) {
  constexpr int64_t kBlock = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    const int64_t r1 = std::min(r0 + kBlock, rows);
    for (int64_t c0 = 0; c0 < cols; c0 += kBlock) {
      const int64_t c1 = std::min(c0 + kBlock, cols);
      int64_t c = c0;
#ifdef MASKRCNN_X86_TARGETS
      if constexpr (std::is_same_v<Src, Dst> && sizeof(Src) == 4) {
        for (; c + 4 <= c1; c += 4) {
          int64_t r = r0;
          for (; r + 4 <= r1; r += 4) {
            transpose_words(src + r * src_stride + c, src_stride, dst + c * dst_stride + r, dst_stride);
          }
          for (; r < r1; ++r) {
            for (int64_t k = c; k < c + 4; ++k) dst[k * dst_stride + r] = src[r * src_stride + k];
          }
        }
      }
#endif
      for (; c < c1; ++c) {
        for (int64_t r = r0; r < r1; ++r) {
          dst[c * dst_stride + r] = static_cast<Dst>(src[r * src_stride + c]);
        }
      }
    }
  }
}

// (N, C, H, W) as NHWC: itself, or a copy.
template <typename T>
Tensor to_channels_last(const Tensor& input) {
  if (is_channels_last(input)) return input;
  const Tensor source = torch::stable::contiguous(input);
  const int64_t n = input.size(0), c = input.size(1), h = input.size(2), w = input.size(3);
  Tensor copy = new_channels_last(input, n, c, h, w);
  if (copy.numel() == 0) return copy;  // there may be 2^40 images of no pixel
  const T* from = source.const_data_ptr<T>();
  T* to = copy.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, n * h, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / h, y = i % h;
      transpose(from + image * c * h * w + y * w, h * w, to + i * w * c, c, c, w);
    }
  });
  return copy;
}

// ---- RoIs --------------------------------------------------------------------------------------------------------

template <typename Acc>
void check_images(const Acc* rois, int64_t count, int64_t images) {
  for (int64_t r = 0; r < count; ++r) {
    const Acc index = rois[5 * r];
    check(index >= Acc(0) && index < Acc(images), "rois: row ", r, " has image index ", index, ", but there are ",
          images, " images");
  }
}

}  // namespace maskrcnn
