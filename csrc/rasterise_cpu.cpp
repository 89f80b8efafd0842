// Training targets on the CPU: objects on grids over boxes, and at points. Rows (RoIs) in parallel.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <vector>

#include "cpu.h"
#include "rasterise.h"

namespace maskrcnn {
namespace {

constexpr int64_t kRowsPerTask = 4;

// Offsets start at or after 0, never fall, and end within `elements`.
void check_offset_values(const Tensor& offsets, const char* name, int64_t elements) {
  const int64_t* offset = offsets.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < offsets.numel(); ++i) {
    const int64_t least = i == 0 ? 0 : offset[i - 1];
    check(offset[i] >= least && offset[i] <= elements, name, ": element ", i, " is ", offset[i], "; expected ", least,
          " to ", elements);
  }
}

void check_index_values(const Tensor& index, int64_t objects) {
  const int64_t* object = index.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < index.numel(); ++r) {
    check(object[r] >= 0 && object[r] < objects, "index: element ", r, " is ", object[r], ", but there are ", objects,
          " objects");
  }
}

// The arguments of the polygons' operators, checked and contiguous.
struct PackedPolygons {
  Tensor points, ring_offsets, object_offsets, index;

  PackedPolygons(const Tensor& points_, const Tensor& ring_offsets_, const Tensor& object_offsets_,
                 const Tensor& index_)
      : points(torch::stable::contiguous(points_)),
        ring_offsets(torch::stable::contiguous(ring_offsets_)),
        object_offsets(torch::stable::contiguous(object_offsets_)),
        index(torch::stable::contiguous(index_)) {
    check_offset_values(ring_offsets, "ring_offsets", points.size(0));
    check_offset_values(object_offsets, "object_offsets", ring_offsets.numel() - 1);
    check_index_values(index, object_offsets.numel() - 1);
  }

  // Calls body(a, b) for the edges of each ring of the object of row r, and after_ring() after each ring.
  template <typename T, typename Body, typename AfterRing>
  void for_edges(int64_t r, Body body, AfterRing after_ring) const {
    const int64_t object = index.const_data_ptr<int64_t>()[r];
    const int64_t* rings = object_offsets.const_data_ptr<int64_t>();
    const int64_t* vertices = ring_offsets.const_data_ptr<int64_t>();
    const T* point = points.const_data_ptr<T>();
    for (int64_t ring = rings[object]; ring < rings[object + 1]; ++ring) {
      const int64_t begin = vertices[ring], end = vertices[ring + 1];
      for (int64_t v = begin; v < end; ++v) body(point + 2 * v, point + 2 * (v + 1 < end ? v + 1 : begin));
      after_ring();
    }
  }
};

Tensor crop_polygons(const Tensor& points, const Tensor& ring_offsets, const Tensor& object_offsets,
                     const Tensor& index, const Tensor& boxes_tensor, int64_t size) {
  check_polygons(points, ring_offsets, object_offsets, index, boxes_tensor, "boxes");
  check_boxes_of(boxes_tensor, index);
  check_cells(size, size);
  const PackedPolygons polygons(points, ring_offsets, object_offsets, index);
  const Tensor boxes = torch::stable::contiguous(boxes_tensor);
  const int64_t count = boxes.size(0), cells = size * size;
  Tensor inside = torch::stable::new_zeros(boxes, {count, size, size}, ScalarType::Bool);
  if (count == 0) return inside;
  uint8_t* out = reinterpret_cast<uint8_t*>(inside.mutable_data_ptr<bool>());
  for_box_type(boxes, "boxes", [&](auto zero) {
    using T = decltype(zero);
    const T* box = boxes.const_data_ptr<T>();
    torch::stable::parallel_for(0, count, kRowsPerTask, [&](int64_t begin, int64_t end) {
      // Where a ring is entered or left; a column more, for what lies behind the last cell.
      const int64_t stride = size + 1;
      std::vector<uint8_t> crossed(size * stride, 0);
      for (int64_t r = begin; r < end; ++r) {
        const CropGrid<T> grid = crop_grid(box + 4 * r, size);
        if (!grid.valid) continue;
        uint8_t* cell = out + r * cells;
        int64_t top = size, bottom = 0;  // the rows that the ring crosses
        polygons.for_edges<T>(
            r,
            [&](const T* a, const T* b) {
              const GridEdge<T> edge = grid_edge(grid, a, b, size);
              for (int64_t row = edge.first; row < edge.last; ++row) {
                crossed[row * stride + crossed_column(edge, row, size)] ^= 1;
              }
              if (edge.first < edge.last) {
                top = std::min(top, edge.first);
                bottom = std::max(bottom, edge.last);
              }
            },
            [&] {
              for (int64_t row = top; row < bottom; ++row) {
                uint8_t* mark = crossed.data() + row * stride;
                uint8_t within = 0;
                for (int64_t j = 0; j < size; ++j) {
                  within ^= mark[j];
                  cell[row * size + j] |= within;
                  mark[j] = 0;
                }
                mark[size] = 0;
              }
              top = size;
              bottom = 0;
            });
      }
    });
  });
  return inside;
}

// Which of n points have the edge from a to b on their left, an odd number of times with those before.
template <typename T>
struct CrossEdge {
  static MASKRCNN_INLINE void run(T xa, T ya, T yb, T slope, const T* MASKRCNN_RESTRICT x,
                                  const T* MASKRCNN_RESTRICT y, int64_t n, int32_t* MASKRCNN_RESTRICT odd) {
    for (int64_t i = 0; i < n; ++i) odd[i] ^= crosses(xa, ya, yb, slope, x[i], y[i]) ? 1 : 0;
  }
};

Tensor points_in_polygons(const Tensor& points, const Tensor& ring_offsets, const Tensor& object_offsets,
                          const Tensor& index, const Tensor& queries_tensor) {
  check_polygons(points, ring_offsets, object_offsets, index, queries_tensor, "queries");
  check_points_of(queries_tensor, "queries", index);
  const PackedPolygons polygons(points, ring_offsets, object_offsets, index);
  const Tensor queries = torch::stable::contiguous(queries_tensor);
  const int64_t count = queries.size(0), n = queries.size(1);
  Tensor inside = torch::stable::new_zeros(queries, {count, n}, ScalarType::Bool);
  if (count * n == 0) return inside;
  bool* out = inside.mutable_data_ptr<bool>();
  for_box_type(queries, "queries", [&](auto zero) {
    using T = decltype(zero);
    const T* query = queries.const_data_ptr<T>();
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> x(n), y(n);
      std::vector<int32_t> odd(n, 0);
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t i = 0; i < n; ++i) {
          x[i] = query[2 * (r * n + i)];
          y[i] = query[2 * (r * n + i) + 1];
        }
        polygons.for_edges<T>(
            r,
            [&](const T* a, const T* b) {
              dispatch<CrossEdge<T>>(a[0], a[1], b[1], (b[0] - a[0]) / (b[1] - a[1]), const_cast<const T*>(x.data()),
                                     const_cast<const T*>(y.data()), n, odd.data());
            },
            [&] {
              for (int64_t i = 0; i < n; ++i) {
                out[r * n + i] |= odd[i] != 0;
                odd[i] = 0;
              }
            });
      }
    });
  });
  return inside;
}

// The arguments of the runs' operators, checked and contiguous.
struct PackedRuns {
  Tensor runs, offsets, index;

  PackedRuns(const Tensor& runs_, const Tensor& offsets_, const Tensor& index_)
      : runs(torch::stable::contiguous(runs_)),
        offsets(torch::stable::contiguous(offsets_)),
        index(torch::stable::contiguous(index_)) {
    check_offset_values(offsets, "offsets", runs.size(0));
    check_index_values(index, offsets.numel() - 1);
  }

  static_assert(sizeof(Run) == 3 * sizeof(int32_t), "a run is a row of the tensor");
  const Run* data() const { return reinterpret_cast<const Run*>(runs.const_data_ptr<int32_t>()); }

  void range(int64_t r, int64_t* begin, int64_t* end) const {
    const int64_t* offset = offsets.const_data_ptr<int64_t>() + index.const_data_ptr<int64_t>()[r];
    *begin = offset[0];
    *end = offset[1];
  }
};

Tensor cover_cells(const Tensor& runs_tensor, const Tensor& offsets, const Tensor& index, const Tensor& boxes_tensor,
                   int64_t height, int64_t width) {
  check_runs(runs_tensor, offsets, index, boxes_tensor, "boxes");
  check_dtype(boxes_tensor, "boxes", ScalarType::Double);
  check_boxes_of(boxes_tensor, index);
  check_cells(height, width);
  const PackedRuns runs(runs_tensor, offsets, index);
  const Tensor boxes = torch::stable::contiguous(boxes_tensor);
  const int64_t count = boxes.size(0), cells = height * width;
  Tensor covered = torch::stable::new_zeros(boxes, {count, height, width});
  if (count == 0) return covered;
  const double* box = boxes.const_data_ptr<double>();
  double* out = covered.mutable_data_ptr<double>();
  torch::stable::parallel_for(0, count, kRowsPerTask, [&](int64_t begin, int64_t end) {
    // What each row adds to the one above it: a run is four numbers a column of cells, however long it is.
    std::vector<double> steps((height + 2) * width, 0.0);
    for (int64_t r = begin; r < end; ++r) {
      const CoverAxis across = cover_axis(box[4 * r], box[4 * r + 2], width);
      const CoverAxis down = cover_axis(box[4 * r + 1], box[4 * r + 3], height);
      if (!across.valid || !down.valid) continue;
      const Run* run = runs.data();
      int64_t k = 0, last = 0, first_column = 0, last_column = 0;
      runs.range(r, &k, &last);
      columns_within(across.low, across.high, &first_column, &last_column);
      k = first_run_from(run, k, last, first_column, std::numeric_limits<int32_t>::min());
      for (; k < last && run[k].column <= last_column; ++k) {
        double left = 0, right = 0, top = 0, bottom = 0;
        cover_interval(across, run[k].column, double(run[k].column) + 1.0, width, &left, &right);
        cover_interval(down, run[k].top, run[k].bottom, height, &top, &bottom);
        if (!(left < right && top < bottom)) continue;
        const int64_t row = int64_t(top), end_row = int64_t(bottom);
        const double rest = top - double(row), end_rest = bottom - double(end_row);
        for (int64_t j = int64_t(left); j < width && double(j) < right; ++j) {
          const double part = std::min(right, double(j + 1)) - std::max(left, double(j));
          double* step = steps.data() + j;
          step[row * width] += part * (1.0 - rest);
          step[(row + 1) * width] += part * rest;
          step[end_row * width] -= part * (1.0 - end_rest);
          step[(end_row + 1) * width] -= part * end_rest;
        }
      }
      double* cell = out + r * cells;
      for (int64_t j = 0; j < width; ++j) cell[j] = steps[j];
      for (int64_t i = width; i < cells; ++i) cell[i] = cell[i - width] + steps[i];
      std::fill(steps.begin(), steps.end(), 0.0);
    }
  });
  return covered;
}

Tensor sample_runs(const Tensor& runs_tensor, const Tensor& offsets, const Tensor& index, const Tensor& points_tensor,
                   int64_t height, int64_t width) {
  check_runs(runs_tensor, offsets, index, points_tensor, "points");
  check_points_of(points_tensor, "points", index);
  check_frame(height, width);
  const PackedRuns runs(runs_tensor, offsets, index);
  const Tensor points = torch::stable::contiguous(points_tensor);
  const int64_t count = points.size(0), n = points.size(1);
  Tensor sampled = torch::stable::new_empty(points, {count, n}, ScalarType::Float);
  if (count * n == 0) return sampled;
  float* out = sampled.mutable_data_ptr<float>();
  for_box_type(points, "points", [&](auto zero) {
    using T = decltype(zero);
    const T* point = points.const_data_ptr<T>();
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        int64_t first = 0, last = 0;
        runs.range(r, &first, &last);
        for (int64_t i = r * n; i < (r + 1) * n; ++i) {
          out[i] = sample_bitmap(runs.data(), first, last, point[2 * i], point[2 * i + 1], height, width);
        }
      }
    });
  });
  return sampled;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("crop_polygons", TORCH_BOX(&crop_polygons));
  m.impl("points_in_polygons", TORCH_BOX(&points_in_polygons));
  m.impl("cover_cells", TORCH_BOX(&cover_cells));
  m.impl("sample_runs", TORCH_BOX(&sample_runs));
}

}  // namespace maskrcnn
