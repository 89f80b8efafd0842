// torch.sort, which LibTorch's stable headers do not declare.
#pragma once

#include <torch/csrc/stable/stableivalue_conversions.h>

#include <array>

#include "common.h"

namespace maskrcnn {

// int64 positions of the elements along the last dimension in sorted order; equal ones keep theirs.
inline Tensor stable_sort(const Tensor& keys, bool descending) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(keys), from(std::optional<bool>(true)), from(int64_t(-1)), from(descending)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes the sorted values over, to free them
  return torch::stable::detail::to<Tensor>(stack[1]);
}

}  // namespace maskrcnn
