// Boxes with one array per coordinate, which is what the CPU's vector registers want.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "nms.h"

namespace maskrcnn {

template <typename T>
struct Columns {
  T *x1, *y1, *x2, *y2, *area;

  Columns operator+(int64_t n) const { return {x1 + n, y1 + n, x2 + n, y2 + n, area + n}; }
  Corners<T> get(int64_t k) const { return {x1[k], y1[k], x2[k], y2[k], area[k]}; }
  void set(int64_t k, const Corners<T>& box) const {
    x1[k] = box.x1;
    y1[k] = box.y1;
    x2[k] = box.x2;
    y2[k] = box.y2;
    area[k] = box.area;
  }
};

// Room for boxes; where none is set, one that overlaps nothing.
template <typename T>
struct Storage {
  explicit Storage(int64_t size) : numbers(5 * size, T(0)), size(size) {
    std::fill_n(numbers.begin(), size, std::numeric_limits<T>::infinity());  // x1
  }
  Columns<T> columns() {
    T* n = numbers.data();
    return {n, n + size, n + 2 * size, n + 3 * size, n + 4 * size};
  }

  std::vector<T> numbers;
  int64_t size;
};

}  // namespace maskrcnn
