// Run lengths of masks down the columns of an image, which alternate 0, 1, 0, ...; the first may be empty.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "common.h"

namespace maskrcnn {

// Run lengths of one mask, from values in the order of the pixels.
class RunWriter {
 public:
  explicit RunWriter(std::vector<int64_t>* counts) : counts_(counts) {}

  // From this place on, until the next call.
  void set(int64_t place, bool value) {
    if (value == value_) return;
    counts_->push_back(place - last_);
    last_ = place;
    value_ = value;
  }

  void end(int64_t place) { counts_->push_back(place - last_); }

 private:
  std::vector<int64_t>* counts_;
  int64_t last_ = 0;
  bool value_ = false;
};

inline Tensor int64s(const Tensor& like, const std::vector<int64_t>& values) {
  Tensor t = torch::stable::new_empty(like, {static_cast<int64_t>(values.size())}, ScalarType::Long);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<int64_t>());
  return t;
}

// The numbers of all masks, one mask after the other, and how many each mask has: int64.
inline std::tuple<Tensor, Tensor> packed(const Tensor& like, const std::vector<std::vector<int64_t>>& masks) {
  std::vector<int64_t> lengths;
  int64_t total = 0;
  for (const auto& mask : masks) {
    lengths.push_back(static_cast<int64_t>(mask.size()));
    total += lengths.back();
  }
  Tensor numbers = torch::stable::new_empty(like, {total}, ScalarType::Long);
  int64_t* to = numbers.mutable_data_ptr<int64_t>();
  for (const auto& mask : masks) to = std::copy(mask.begin(), mask.end(), to);
  return {numbers, int64s(like, lengths)};
}

}  // namespace maskrcnn
