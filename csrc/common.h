// What all kernels share, on either device: types, checks of arguments, the choice of a dtype.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>

#if defined(__CUDACC__)
#define MASKRCNN_HOST_DEVICE __host__ __device__
#else
#define MASKRCNN_HOST_DEVICE
#endif

namespace maskrcnn {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Half types are summed in float.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// As constants: device code may not call the functions of std::numeric_limits.
template <typename Acc>
constexpr Acc kInfinity = std::numeric_limits<Acc>::infinity();
template <typename Acc>
constexpr Acc kNaN = std::numeric_limits<Acc>::quiet_NaN();
template <typename Acc>
constexpr Acc kEpsilon = std::numeric_limits<Acc>::epsilon();
template <typename T>
constexpr T kMax = std::numeric_limits<T>::max();

template <typename T>
constexpr ScalarType scalar_type_of = std::is_same_v<T, double>     ? ScalarType::Double
                                      : std::is_same_v<T, float>    ? ScalarType::Float
                                      : std::is_same_v<T, Half>     ? ScalarType::Half
                                      : std::is_same_v<T, BFloat16> ? ScalarType::BFloat16
                                                                    : ScalarType::Undefined;

// ---- errors: std::invalid_argument reaches Python as a ValueError -------------------------------------------------

template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline std::string shape_of(const Tensor& t) {
  std::ostringstream text;
  text << "(";
  for (int64_t d = 0; d < t.dim(); ++d) text << (d > 0 ? ", " : "") << t.size(d);
  text << (t.dim() == 1 ? ",)" : ")");
  return text.str();
}

// `sides`: the expected shape, -1 for any length; `wanted` says it in words.
inline void check_shape(const Tensor& t, const char* name, std::initializer_list<int64_t> sides, const char* wanted) {
  bool good = t.dim() == static_cast<int64_t>(sides.size());
  int64_t d = 0;
  for (const int64_t side : sides) {
    if (good && side >= 0 && t.size(d) != side) good = false;
    ++d;
  }
  check(good, name, ": shape ", shape_of(t), "; expected ", wanted);
}

inline void check_dtype(const Tensor& t, const char* name, ScalarType expected) {
  check(t.scalar_type() == expected, name, ": dtype ", torch::headeronly::toString(t.scalar_type()), "; expected ",
        torch::headeronly::toString(expected));
}

inline void check_same_device(const Tensor& t, const char* name, const Tensor& other, const char* other_name) {
  check(t.device() == other.device(), name, ": on another device than ", other_name);
}

// The size of an image: small enough that its pixels can be numbered.
inline void check_frame(int64_t height, int64_t width) {
  constexpr int64_t kMost = 2147483647;
  check(height >= 0 && width >= 0 && height <= kMost && width <= kMost, "size: (", height, ", ", width,
        "); expected (H, W), neither negative nor above 2^31 - 1");
}

// Boxes are float32, or float64 beside float64 values: half precision would quantise coordinates.
inline void check_boxes_dtype(const Tensor& boxes, const char* name, const Tensor& values) {
  check_dtype(boxes, name, values.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
}

// What every operator on RoIs takes: values (N, C, H, W) or (R, C, h, w), as `wanted` says, and rois (R, 5).
inline void check_values_and_rois(const Tensor& values, const char* name, const char* wanted, const Tensor& rois) {
  check_shape(values, name, {-1, -1, -1, -1}, wanted);
  check_shape(rois, "rois", {-1, 5}, "(R, 5): image index, x1, y1, x2, y2");
  check_boxes_dtype(rois, "rois", values);
  check_same_device(rois, "rois", values, name);
}

inline void check_output_size(int64_t height, int64_t width) {
  constexpr int64_t kMost = 1 << 20;
  check(height > 0 && width > 0 && height <= kMost && width <= kMost, "output_size: (", height, ", ", width,
        "); expected two positive numbers of at most 2^20");
}

// A gradient of the pooled (R, C, h, w) for features of this many images of this size.
inline void check_grad_and_rois(const Tensor& grad, const Tensor& rois, int64_t images, int64_t height,
                                int64_t width) {
  check_values_and_rois(grad, "grad", "(R, C, h, w)", rois);
  check(grad.size(0) == rois.size(0), "grad: shape ", shape_of(grad), "; expected ", rois.size(0),
        " rows, one for each of the rois");
  check_output_size(grad.size(2), grad.size(3));
  check(images >= 0 && height >= 0 && width >= 0, "features: ", images, " images of (", height, ", ", width,
        "); expected no negative number");
  check_frame(height, width);
}

// ---- dtypes ------------------------------------------------------------------------------------------------------

// Calls body(T()) with the floating type of `t`, which the message of a failure calls `name`.
template <typename Body>
auto for_floating_type(const Tensor& t, const char* name, Body body) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return body(double());
    case ScalarType::Half:
      return body(Half());
    case ScalarType::BFloat16:
      return body(BFloat16());
    default:
      check(t.scalar_type() == ScalarType::Float, name, ": dtype ", torch::headeronly::toString(t.scalar_type()),
            "; expected float32, float64, float16 or bfloat16");
      return body(float());
  }
}

// Boxes: float32 or float64.
template <typename Body>
auto for_box_type(const Tensor& t, const char* name, Body body) {
  if (t.scalar_type() == ScalarType::Double) return body(double());
  check(t.scalar_type() == ScalarType::Float, name, ": dtype ", torch::headeronly::toString(t.scalar_type()),
        "; expected float32 or float64");
  return body(float());
}

// ---- memory layouts ----------------------------------------------------------------------------------------------

// True where the layout of (N, C, H, W) is NHWC and not NCHW too (one channel, or one pixel, is both).
inline bool is_channels_last(const Tensor& t) {
  if (t.is_contiguous()) return false;
  int64_t expected = 1;
  for (int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

// (n, h, w, c) as (n, c, h, w) in NHWC order; in two steps, since torch 2.10 has no permute here.
inline Tensor channels_first(const Tensor& t) {
  return torch::stable::transpose(torch::stable::transpose(t, 1, 3), 2, 3);
}

// A new uninitialised (n, c, h, w) tensor in NHWC order.
inline Tensor new_channels_last(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  return channels_first(torch::stable::new_empty(like, {n, h, w, c}));
}

}  // namespace maskrcnn
