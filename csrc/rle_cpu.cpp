// COCO's RLE, many masks at once: text <-> run lengths, bitmaps -> run lengths -> runs of single columns.
//
// COCO's text writes each run, from the fourth on as the difference to the one two before it, in groups of 5 bits, low
// ones first: a character is 48 + group, + 32 if more groups of the same number follow; the number's sign is bit 16 of
// its last group.
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#include "cpu.h"
#include "rle.h"

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

// Adds the runs of a bitmap (height, width) whose first pixel is (x0, y0) of a frame. Rows are compared with those
// above them, some columns at a time, so that both are read in the order of memory and most of them at once.
void encode_bitmap(const uint8_t* bitmap, int64_t height, int64_t width, int64_t x0, int64_t y0, int64_t frame_height,
                   RunWriter* runs) {
  constexpr int64_t kColumns = 64;
  const uint8_t zeros[kColumns] = {};
  std::vector<int64_t> changes[kColumns];
  for (int64_t first = 0; first < width; first += kColumns) {
    const int64_t n = std::min(kColumns, width - first);
    const uint8_t* above = zeros;
    for (int64_t y = 0; y <= height; ++y) {
      const uint8_t* row = y < height ? bitmap + y * width + first : zeros;
      if (std::memcmp(row, above, n) != 0) {
        for (int64_t c = 0; c < n; ++c) {
          if (row[c] != above[c]) changes[c].push_back(y);
        }
      }
      above = row;
    }
    for (int64_t c = 0; c < n; ++c) {
      const int64_t top = (x0 + first + c) * frame_height;
      const bool at_the_top = y0 == 0 && !changes[c].empty() && changes[c][0] == 0;
      if (!at_the_top) runs->set(top, false);
      bool value = false;
      for (const int64_t y : changes[c]) {
        value = !value;
        if (y0 + y < frame_height) runs->set(top + y0 + y, value);  // at the bottom, the next column tells
      }
      changes[c].clear();
    }
  }
}

// bitmaps bool (n, h, w), corners int64 (n, 2), x and y of each one's first pixel in a frame -> counts and lengths
std::tuple<Tensor, Tensor> encode_bitmaps(const Tensor& bitmaps_tensor, const Tensor& corners_tensor, int64_t height,
                                          int64_t width) {
  check_shape(bitmaps_tensor, "bitmaps", {-1, -1, -1}, "(n, h, w)");
  check_dtype(bitmaps_tensor, "bitmaps", ScalarType::Bool);
  check_shape(corners_tensor, "corners", {bitmaps_tensor.size(0), 2}, "(n, 2)");
  check_dtype(corners_tensor, "corners", ScalarType::Long);
  check_same_device(corners_tensor, "corners", bitmaps_tensor, "bitmaps");
  check_frame(height, width);
  const Tensor bitmaps = torch::stable::contiguous(bitmaps_tensor);
  const Tensor corners = torch::stable::contiguous(corners_tensor);
  const int64_t count = bitmaps.size(0), h = bitmaps.size(1), w = bitmaps.size(2);
  const int64_t* corner = corners.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t x = corner[2 * i], y = corner[2 * i + 1];
    check(x >= 0 && x <= width - w && y >= 0 && y <= height - h, "corners: row ", i, " is (", x, ", ", y,
          "); bitmaps of ", h, "x", w, " must lie within the frame of ", height, "x", width);
  }
  const uint8_t* pixels = reinterpret_cast<const uint8_t*>(bitmaps.const_data_ptr<bool>());
  std::vector<std::vector<int64_t>> counts(count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      RunWriter runs(&counts[i]);
      encode_bitmap(pixels + i * h * w, h, w, corner[2 * i], corner[2 * i + 1], height, &runs);
      if (corner[2 * i] + w < width) runs.set((corner[2 * i] + w) * height, false);
      runs.end(height * width);
    }
  });
  return packed(bitmaps, counts);
}

// counts and lengths of masks of one frame -> runs int32 (N, 3), column, top, bottom, and offsets int64 (n + 1,) of
// each mask's. A run that goes on in the next column is cut there.
std::tuple<Tensor, Tensor> runs_of_counts(const Tensor& counts_tensor, const Tensor& lengths_tensor, int64_t height,
                                          int64_t width) {
  check_list(counts_tensor, "counts", ScalarType::Long);
  check_list(lengths_tensor, "lengths", ScalarType::Long);
  check_frame(height, width);
  const Tensor counts_row = torch::stable::contiguous(counts_tensor);
  const Tensor lengths = torch::stable::contiguous(lengths_tensor);
  check_lengths(lengths, "lengths", counts_row.numel());
  const int64_t* count = counts_row.const_data_ptr<int64_t>();
  std::vector<int32_t> runs;
  std::vector<int64_t> offsets{0};
  for (int64_t i = 0; i < lengths.numel(); ++i) {
    int64_t place = 0;
    for (int64_t k = 0; k < lengths.const_data_ptr<int64_t>()[i]; ++k, ++count) {
      check(*count >= 0 && *count <= height * width - place, "mask ", i, ": run ", k, " has length ", *count, " after ",
            place, " of ", height * width, " pixels");
      const int64_t stop = place + *count;
      if (k % 2 == 0) place = stop;
      while (place < stop) {
        const int64_t column = place / height, top = place - column * height;
        const int64_t bottom = std::min(height, top + stop - place);
        for (const int64_t part : {column, top, bottom}) runs.push_back(static_cast<int32_t>(part));
        place += bottom - top;
      }
    }
    check(place == height * width, "mask ", i, ": runs add up to ", place, " pixels, but its size has ",
          height * width);
    offsets.push_back(static_cast<int64_t>(runs.size()) / 3);
  }
  Tensor rows = torch::stable::new_empty(counts_row, {offsets.back(), 3}, ScalarType::Int);
  std::copy(runs.begin(), runs.end(), rows.mutable_data_ptr<int32_t>());
  return {rows, int64s(counts_row, offsets)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("compress_counts", TORCH_BOX(&compress_counts));
  m.impl("decompress_counts", TORCH_BOX(&decompress_counts));
  m.impl("encode_bitmaps", TORCH_BOX(&encode_bitmaps));
  m.impl("runs_of_counts", TORCH_BOX(&runs_of_counts));
}

}  // namespace maskrcnn
