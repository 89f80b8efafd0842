// COCO's compressed RLE: text <-> run lengths, many masks at once.
//
// COCO's text writes each run, from the fourth on as the difference to the one two before it, in groups of 5 bits, low
// ones first: a character is 48 + group, + 32 if more groups of the same number follow; the number's sign is bit 16 of
// its last group.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "cpu.h"

namespace maskrcnn {
namespace {

constexpr int64_t kMasksPerTask = 16;

void check_list(const Tensor& t, const char* name, ScalarType dtype) {
  check(t.dim() == 1, name, ": shape ", shape_of(t), "; expected one dimension");
  check_dtype(t, name, dtype);
  check(t.is_cpu(), name, ": expected a tensor on the CPU");
}

// Calls write(character) for each character of the runs. Differences wrap around rather than overflow.
template <typename Write>
void write_runs(const int64_t* counts, int64_t length, Write write) {
  for (int64_t i = 0; i < length; ++i) {
    const uint64_t before = i > 2 ? static_cast<uint64_t>(counts[i - 2]) : 0;
    int64_t rest = static_cast<int64_t>(static_cast<uint64_t>(counts[i]) - before);
    bool more = true;
    while (more) {
      const int64_t group = rest & 31;
      rest >>= 5;
      more = rest != ((group & 16) != 0 ? -1 : 0);
      write(static_cast<uint8_t>(48 + group + (more ? 32 : 0)));
    }
  }
}

// The places where consecutive groups of these lengths end.
std::vector<int64_t> ends_of(const int64_t* lengths, int64_t count) {
  std::vector<int64_t> ends(count + 1, 0);
  for (int64_t i = 0; i < count; ++i) ends[i + 1] = ends[i] + lengths[i];
  return ends;
}

Tensor int64s(const Tensor& like, const std::vector<int64_t>& values) {
  Tensor t = torch::stable::new_empty(like, {static_cast<int64_t>(values.size())}, ScalarType::Long);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<int64_t>());
  return t;
}

// Lengths of groups that share `total` elements.
void check_lengths(const Tensor& lengths, const char* name, int64_t total) {
  const int64_t* length = lengths.const_data_ptr<int64_t>();
  int64_t sum = 0;
  for (int64_t i = 0; i < lengths.numel(); ++i) {
    check(length[i] >= 0 && length[i] <= total - sum, name, ": element ", i, " is ", length[i],
          "; expected lengths, none negative, that add up to ", total);
    sum += length[i];
  }
  check(sum == total, name, ": add up to ", sum, "; expected ", total);
}

// counts int64 (K,), lengths int64 (n,) -> uint8 characters, and how many each mask has, int64 (n,)
std::tuple<Tensor, Tensor> compress_counts(const Tensor& counts_tensor, const Tensor& lengths_tensor) {
  check_list(counts_tensor, "counts", ScalarType::Long);
  check_list(lengths_tensor, "lengths", ScalarType::Long);
  const Tensor counts_row = torch::stable::contiguous(counts_tensor);
  const Tensor lengths = torch::stable::contiguous(lengths_tensor);
  check_lengths(lengths, "lengths", counts_row.numel());
  const int64_t count = lengths.numel();
  const int64_t* counts = counts_row.const_data_ptr<int64_t>();
  const int64_t* length = lengths.const_data_ptr<int64_t>();
  const std::vector<int64_t> starts = ends_of(length, count);
  std::vector<int64_t> written(count, 0);
  torch::stable::parallel_for(0, count, kMasksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t characters = 0;
      write_runs(counts + starts[i], length[i], [&](uint8_t) { ++characters; });
      written[i] = characters;
    }
  });
  const std::vector<int64_t> text_starts = ends_of(written.data(), count);
  Tensor text = torch::stable::new_empty(counts_row, {text_starts.back()}, ScalarType::Byte);
  uint8_t* characters = text.mutable_data_ptr<uint8_t>();
  torch::stable::parallel_for(0, count, kMasksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      uint8_t* to = characters + text_starts[i];
      write_runs(counts + starts[i], length[i], [&](uint8_t character) { *to++ = character; });
    }
  });
  return {text, int64s(counts_row, written)};
}

// A character that COCO's encoding does not use, or a text that ends within a number.
void check_text(const uint8_t* text, int64_t length, int64_t mask) {
  for (int64_t k = 0; k < length; ++k) {
    check(text[k] >= 48 && text[k] <= 111, "mask ", mask, ": character ", k, " has code ", int(text[k]),
          ", so the text is not COCO's compressed RLE");
  }
  check(length == 0 || ((text[length - 1] - 48) & 32) == 0, "mask ", mask,
        ": the text ends within a number, so it is not COCO's compressed RLE, or not all of it");
}

void read_runs(const uint8_t* text, int64_t length, int64_t* counts) {
  uint64_t value = 0;  // unsigned: numbers too large for 64 bits wrap around
  int shift = 0;
  int64_t run = 0;
  for (int64_t k = 0; k < length; ++k) {
    const uint64_t code = text[k] - 48u;
    if (shift < 64) value |= (code & 31) << shift;
    shift = std::min(shift + 5, 64);
    if ((code & 32) != 0) continue;
    if ((code & 16) != 0 && shift < 64) value -= uint64_t(1) << shift;
    if (run > 2) value += static_cast<uint64_t>(counts[run - 2]);
    counts[run++] = static_cast<int64_t>(value);
    value = 0;
    shift = 0;
  }
}

// text uint8 (B,), lengths int64 (n,) -> counts int64 (K,), and how many each mask has, int64 (n,)
std::tuple<Tensor, Tensor> decompress_counts(const Tensor& text_tensor, const Tensor& lengths_tensor) {
  check_list(text_tensor, "text", ScalarType::Byte);
  check_list(lengths_tensor, "lengths", ScalarType::Long);
  const Tensor text_row = torch::stable::contiguous(text_tensor);
  const Tensor lengths = torch::stable::contiguous(lengths_tensor);
  check_lengths(lengths, "lengths", text_row.numel());
  const int64_t count = lengths.numel();
  const uint8_t* text = text_row.const_data_ptr<uint8_t>();
  const int64_t* length = lengths.const_data_ptr<int64_t>();
  const std::vector<int64_t> text_starts = ends_of(length, count);
  std::vector<int64_t> runs(count);
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t *first = text + text_starts[i], *last = first + length[i];
    check_text(first, length[i], i);
    runs[i] = std::count_if(first, last, [](uint8_t c) { return ((c - 48) & 32) == 0; });
  }
  const std::vector<int64_t> starts = ends_of(runs.data(), count);
  Tensor counts = torch::stable::new_empty(text_row, {starts.back()}, ScalarType::Long);
  int64_t* to = counts.mutable_data_ptr<int64_t>();
  torch::stable::parallel_for(0, count, kMasksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) read_runs(text + text_starts[i], length[i], to + starts[i]);
  });
  return {counts, int64s(text_row, runs)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("compress_counts", TORCH_BOX(&compress_counts));
  m.impl("decompress_counts", TORCH_BOX(&decompress_counts));
}

}  // namespace maskrcnn
