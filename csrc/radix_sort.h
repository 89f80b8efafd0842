// A stable sort by 64-bit keys in time linear in the rows; bytes in which all keys agree cost nothing.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace maskrcnn {

struct Keyed {
  uint64_t key;
  int64_t value;
};

// Unsigned numbers in the same order. A NaN has no place among them.
inline uint64_t ordered_bits(int64_t number) { return static_cast<uint64_t>(number) ^ (uint64_t(1) << 63); }

inline uint64_t ordered_bits(double number) {
  uint64_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return bits >> 63 ? ~bits : bits | uint64_t(1) << 63;
}

// In the opposite order. Minus zero equals zero.
inline uint64_t falling_bits(double number) { return ~ordered_bits(number + 0.0); }

inline void radix_sort(std::vector<Keyed>& rows) {
  std::array<std::array<size_t, 256>, 8> counts{};
  for (const Keyed& row : rows) {
    for (int byte = 0; byte < 8; ++byte) ++counts[byte][row.key >> (8 * byte) & 255];
  }
  std::vector<Keyed> sorted(rows.size());
  for (int byte = 0; byte < 8 && !rows.empty(); ++byte) {
    std::array<size_t, 256>& places = counts[byte];
    if (places[rows[0].key >> (8 * byte) & 255] == rows.size()) continue;
    size_t place = 0;
    for (size_t& digit : places) {
      const size_t count = digit;
      digit = place;
      place += count;
    }
    for (const Keyed& row : rows) sorted[places[row.key >> (8 * byte) & 255]++] = row;
    rows.swap(sorted);
  }
}

}  // namespace maskrcnn
