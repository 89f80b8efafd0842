// Objects on a grid over a box, or at points: training targets. Polygons and runs of pixels, packed as
// maskrcnn/ops/polygons.py and runs.py say.
#pragma once

#include <cmath>
#include <cstdint>

#include "common.h"

namespace maskrcnn {

// A coordinate as a number in [0, most]; NaN is 0. Before any conversion to an integer, which would be undefined.
template <typename T>
MASKRCNN_HOST_DEVICE T clip(T value, T most) {
  return !(value > T(0)) ? T(0) : value < most ? value : most;
}

// Elements [begin, end) of a packed list, within what there is whatever the offsets say; none for an owner that is not.
MASKRCNN_HOST_DEVICE inline void packed_range(const int64_t* offsets, int64_t owners, int64_t owner, int64_t elements,
                                              int64_t* begin, int64_t* end) {
  *begin = *end = 0;
  if (owner < 0 || owner >= owners) return;
  const int64_t from = offsets[owner], to = offsets[owner + 1];
  if (from < 0 || to > elements || from > to) return;
  *begin = from;
  *end = to;
}

// ---- polygons ----------------------------------------------------------------------------------------------------
// A place is inside an object if it is inside one of its rings, and inside a ring if a line from it to the left
// crosses the ring an odd number of times.

template <typename T>
struct Polygons {
  const T* points;  // x, y
  const int64_t *ring_offsets, *object_offsets;
  int64_t num_points, num_rings, num_objects;
};

// A grid of size x size cells over a box.
template <typename T>
struct CropGrid {
  T x, y, scale_x, scale_y;
  bool valid;
};

template <typename T>
MASKRCNN_HOST_DEVICE CropGrid<T> crop_grid(const T* box, int64_t size) {
  const T w = box[2] - box[0], h = box[3] - box[1];
  bool valid = std::isfinite(w) && std::isfinite(h) && w > T(0) && h > T(0);  // so the corners are finite too
  return {box[0], box[1], T(size) / w, T(size) / h, valid};
}

// An edge in grid coordinates: cell (i, j) covers [j, j + 1) x [i, i + 1).
template <typename T>
struct GridEdge {
  T x, y, slope;
  int64_t first, last;  // the rows whose centre it crosses; half open, so that a vertex on a row counts once
};

template <typename T>
MASKRCNN_HOST_DEVICE GridEdge<T> grid_edge(const CropGrid<T>& grid, const T* a, const T* b, int64_t size) {
  const T xa = (a[0] - grid.x) * grid.scale_x, ya = (a[1] - grid.y) * grid.scale_y;
  const T xb = (b[0] - grid.x) * grid.scale_x, yb = (b[1] - grid.y) * grid.scale_y;
  const T top = ya < yb ? ya : yb, bottom = ya < yb ? yb : ya;
  const T first = clip(std::ceil(top - T(0.5)), T(size)), last = clip(std::ceil(bottom - T(0.5)), T(size));
  return {xa, ya, (xb - xa) / (yb - ya), int64_t(first), int64_t(last)};
}

// The first cell of a row whose centre has the edge on its left; `size` for none.
template <typename T>
MASKRCNN_HOST_DEVICE int64_t crossed_column(const GridEdge<T>& edge, int64_t row, int64_t size) {
  const T x = edge.x + (T(row) + T(0.5) - edge.y) * edge.slope;
  return int64_t(clip(std::ceil(x - T(0.5)), T(size)));
}

// Whether a line from (x, y) to the left crosses the edge from a to b.
template <typename T>
MASKRCNN_HOST_DEVICE inline bool crosses(T xa, T ya, T yb, T slope, T x, T y) {
  return ((ya <= y) != (yb <= y)) & (xa + (y - ya) * slope <= x);
}

// ---- runs of pixels ----------------------------------------------------------------------------------------------

struct Run {
  int32_t column, top, bottom;  // pixels top to bottom - 1
};

// The first of the sorted runs [begin, end) that begins at this column and row or behind them.
MASKRCNN_HOST_DEVICE inline int64_t first_run_from(const Run* runs, int64_t begin, int64_t end, int64_t column,
                                                   int64_t row) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (runs[middle].column < column || (runs[middle].column == column && runs[middle].top < row)) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// Whether one of the runs [begin, end) covers a pixel.
MASKRCNN_HOST_DEVICE inline bool covers(const Run* runs, int64_t begin, int64_t end, int64_t column, int64_t row) {
  const int64_t next = first_run_from(runs, begin, end, column, row + 1);
  return next > begin && runs[next - 1].column == column && row < runs[next - 1].bottom;
}

// One axis of a grid of cells over a box, in source pixels.
struct CoverAxis {
  double start, scale;  // cells per pixel, negative for a mirrored grid
  double low, high;     // what the box covers
  bool valid;
};

MASKRCNN_HOST_DEVICE inline CoverAxis cover_axis(double from, double to, int64_t cells) {
  const double extent = to - from, scale = double(cells) / extent;
  const bool valid = std::isfinite(extent) && extent != 0 && std::isfinite(scale);
  return {from, scale, from < to ? from : to, from < to ? to : from, valid};
}

// Pixels [from, to) as a part [low, high) of the grid.
MASKRCNN_HOST_DEVICE inline void cover_interval(const CoverAxis& axis, double from, double to, int64_t cells,
                                                double* low, double* high) {
  const double a = clip((from - axis.start) * axis.scale, double(cells));
  const double b = clip((to - axis.start) * axis.scale, double(cells));
  *low = a < b ? a : b;
  *high = a < b ? b : a;
}

// The columns that can reach into source pixels [low, high), [first, last), as numbers that a run may have.
MASKRCNN_HOST_DEVICE inline void columns_within(double low, double high, int64_t* first, int64_t* last) {
  constexpr double kMost = 2147483647.0;
  *first = int64_t(clip(std::floor(low) - 1.0, kMost));
  *last = int64_t(clip(std::ceil(high) + 1.0, kMost));
}

// Where a point reads on an axis: pixels `first` and `first + 1`, the latter with this weight; -2 for NaN.
template <typename T>
MASKRCNN_HOST_DEVICE void sample_axis(T place, int64_t most, int64_t* first, T* weight) {
  const T base = std::floor(place - T(0.5));
  const T safe = !(base > T(-2)) ? T(-2) : base < T(most + 1) ? base : T(most + 1);
  *first = int64_t(safe);
  *weight = place - T(0.5) - safe;
}

// A bitmap of `height` x `width` pixels, runs [begin, end), at a point: bilinear between the pixels' centres.
template <typename T>
MASKRCNN_HOST_DEVICE float sample_bitmap(const Run* runs, int64_t begin, int64_t end, T x, T y, int64_t height,
                                         int64_t width) {
  int64_t column = 0, row = 0;
  T right = 0, below = 0;
  const int64_t most = height > width ? height : width;
  sample_axis(x, most, &column, &right);
  sample_axis(y, most, &row, &below);
  T sum = 0;
  for (int dx = 0; dx < 2; ++dx) {
    for (int dy = 0; dy < 2; ++dy) {
      const int64_t u = column + dx, v = row + dy;
      const bool within = u >= 0 && u < width && v >= 0 && v < height;
      if (within && covers(runs, begin, end, u, v)) {
        sum += (dx == 1 ? right : T(1) - right) * (dy == 1 ? below : T(1) - below);
      }
    }
  }
  return float(sum);
}

// ---- arguments ---------------------------------------------------------------------------------------------------

inline void check_int64_list(const Tensor& t, const char* name, const Tensor& beside, const char* beside_name) {
  check_shape(t, name, {-1}, "one dimension");
  check_dtype(t, name, ScalarType::Long);
  check_same_device(t, name, beside, beside_name);
}

inline void check_offsets(const Tensor& t, const char* name, const Tensor& beside, const char* beside_name) {
  check_int64_list(t, name, beside, beside_name);
  check(t.numel() >= 1, name, ": empty; expected 0 and the end of each owner's elements");
}

// boxes or queries: as many rows as `index`, in the dtype of the points.
inline void check_polygons(const Tensor& points, const Tensor& ring_offsets, const Tensor& object_offsets,
                           const Tensor& index, const Tensor& places, const char* name) {
  check_shape(points, "points", {-1, 2}, "(T, 2)");
  for_box_type(points, "points", [](auto) {});
  check_offsets(ring_offsets, "ring_offsets", points, "points");
  check_offsets(object_offsets, "object_offsets", points, "points");
  check_int64_list(index, "index", points, "points");
  check_dtype(places, name, points.scalar_type());
  check_same_device(places, name, points, "points");
}

inline void check_runs(const Tensor& runs, const Tensor& offsets, const Tensor& index, const Tensor& places,
                       const char* name) {
  check_shape(runs, "runs", {-1, 3}, "(N, 3)");
  check_dtype(runs, "runs", ScalarType::Int);
  check_offsets(offsets, "offsets", runs, "runs");
  check_int64_list(index, "index", runs, "runs");
  check_same_device(places, name, runs, "runs");
}

inline void check_boxes_of(const Tensor& boxes, const Tensor& index) {
  check_shape(boxes, "boxes", {index.size(0), 4}, "(R, 4), a box per element of index");
}

inline void check_points_of(const Tensor& points, const char* name, const Tensor& index) {
  check_shape(points, name, {index.size(0), -1, 2}, "(R, P, 2), a row per element of index");
}

inline void check_cells(int64_t height, int64_t width) {
  constexpr int64_t kMost = 1 << 20;
  check(height > 0 && width > 0 && height <= kMost && width <= kMost, "size: (", height, ", ", width,
        "); expected positive numbers of at most 2^20");
}

}  // namespace maskrcnn
