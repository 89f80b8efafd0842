// Training targets on CUDA: a thread per cell or point, which goes through the edges or runs of its object. No two
// threads write one element, so there are no atomics and the answer is always the same.
#include <torch/csrc/stable/library.h>

#include "cuda.cuh"
#include "rasterise.h"

namespace maskrcnn {
namespace {

template <typename T>
Polygons<T> polygons_of(const Tensor& points, const Tensor& ring_offsets, const Tensor& object_offsets) {
  return {points.const_data_ptr<T>(), ring_offsets.const_data_ptr<int64_t>(), object_offsets.const_data_ptr<int64_t>(),
          points.size(0), ring_offsets.numel() - 1, object_offsets.numel() - 1};
}

// Whether crosses_edge(a, b) is true of an odd number of a ring's edges, for any ring of the object.
template <typename T, typename CrossesEdge>
MASKRCNN_HOST_DEVICE bool inside_any_ring(const Polygons<T>& polygons, int64_t object, CrossesEdge crosses_edge) {
  int64_t ring = 0, last_ring = 0;
  packed_range(polygons.object_offsets, polygons.num_objects, object, polygons.num_rings, &ring, &last_ring);
  for (; ring < last_ring; ++ring) {
    int64_t begin = 0, end = 0;
    packed_range(polygons.ring_offsets, polygons.num_rings, ring, polygons.num_points, &begin, &end);
    bool inside = false;
    for (int64_t v = begin; v < end; ++v) {
      const int64_t next = v + 1 < end ? v + 1 : begin;
      inside ^= crosses_edge(polygons.points + 2 * v, polygons.points + 2 * next);
    }
    if (inside) return true;
  }
  return false;
}

template <typename T>
__global__ void crop_kernel(Polygons<T> polygons, const int64_t* index, const T* boxes, int64_t count, int64_t size,
                            bool* out) {
  MASKRCNN_GRID_STRIDE(i, count * size * size) {
    const int64_t column = i % size, row = i / size % size, r = i / size / size;
    const CropGrid<T> grid = crop_grid(boxes + 4 * r, size);
    out[i] = grid.valid && inside_any_ring(polygons, index[r], [&](const T* a, const T* b) {
               const GridEdge<T> edge = grid_edge(grid, a, b, size);
               return row >= edge.first && row < edge.last && crossed_column(edge, row, size) <= column;
             });
  }
}

template <typename T>
__global__ void points_kernel(Polygons<T> polygons, const int64_t* index, const T* queries, int64_t count, int64_t n,
                              bool* out) {
  MASKRCNN_GRID_STRIDE(i, count * n) {
    const T x = queries[2 * i], y = queries[2 * i + 1];
    out[i] = inside_any_ring(polygons, index[i / n], [&](const T* a, const T* b) {
      return crosses(a[0], a[1], b[1], (b[0] - a[0]) / (b[1] - a[1]), x, y);
    });
  }
}

// The packed runs of all objects.
struct Runs {
  const Run* runs;
  const int64_t *offsets, *index;
  int64_t num_runs, num_objects;

  MASKRCNN_HOST_DEVICE void range(int64_t r, int64_t* begin, int64_t* end) const {
    packed_range(offsets, num_objects, index[r], num_runs, begin, end);
  }
};

Runs runs_of(const Tensor& runs, const Tensor& offsets, const Tensor& index) {
  return {reinterpret_cast<const Run*>(runs.const_data_ptr<int32_t>()), offsets.const_data_ptr<int64_t>(),
          index.const_data_ptr<int64_t>(), runs.size(0), offsets.numel() - 1};
}

__global__ void cover_kernel(Runs packed, const double* boxes, int64_t count, int64_t height, int64_t width,
                             double* out) {
  MASKRCNN_GRID_STRIDE(i, count * height * width) {
    const int64_t column = i % width, row = i / width % height, r = i / width / height;
    const CoverAxis across = cover_axis(boxes[4 * r], boxes[4 * r + 2], width);
    const CoverAxis down = cover_axis(boxes[4 * r + 1], boxes[4 * r + 3], height);
    double covered = 0;
    if (across.valid && down.valid) {
      const double a = across.start + double(column) / across.scale;
      const double b = across.start + double(column + 1) / across.scale;
      int64_t k = 0, last = 0, first_column = 0, last_column = 0;
      packed.range(r, &k, &last);
      columns_within(a < b ? a : b, a < b ? b : a, &first_column, &last_column);
      k = first_run_from(packed.runs, k, last, first_column, INT32_MIN);
      for (; k < last && packed.runs[k].column <= last_column; ++k) {
        const Run run = packed.runs[k];
        double left = 0, right = 0, top = 0, bottom = 0;
        cover_interval(across, run.column, double(run.column) + 1.0, width, &left, &right);
        cover_interval(down, run.top, run.bottom, height, &top, &bottom);
        const double x = (right < double(column + 1) ? right : double(column + 1)) -
                         (left > double(column) ? left : double(column));
        const double y =
            (bottom < double(row + 1) ? bottom : double(row + 1)) - (top > double(row) ? top : double(row));
        if (x > 0 && y > 0) covered += x * y;
      }
    }
    out[i] = covered;
  }
}

template <typename T>
__global__ void sample_kernel(Runs packed, const T* points, int64_t count, int64_t n, int64_t height, int64_t width,
                              float* out) {
  MASKRCNN_GRID_STRIDE(i, count * n) {
    int64_t first = 0, last = 0;
    packed.range(i / n, &first, &last);
    out[i] = sample_bitmap(packed.runs, first, last, points[2 * i], points[2 * i + 1], height, width);
  }
}

Tensor crop_polygons(const Tensor& points_tensor, const Tensor& ring_offsets, const Tensor& object_offsets,
                     const Tensor& index_tensor, const Tensor& boxes_tensor, int64_t size) {
  check_polygons(points_tensor, ring_offsets, object_offsets, index_tensor, boxes_tensor, "boxes");
  check_boxes_of(boxes_tensor, index_tensor);
  check_cells(size, size);
  const Tensor points = torch::stable::contiguous(points_tensor), boxes = torch::stable::contiguous(boxes_tensor);
  const Tensor rings = torch::stable::contiguous(ring_offsets), objects = torch::stable::contiguous(object_offsets);
  const Tensor index = torch::stable::contiguous(index_tensor);
  Tensor inside = torch::stable::new_empty(boxes, {boxes.size(0), size, size}, ScalarType::Bool);
  for_box_type(points, "points", [&](auto zero) {
    using T = decltype(zero);
    launch(points, crop_kernel<T>, blocks_for(inside.numel()), kThreads, polygons_of<T>(points, rings, objects),
           index.const_data_ptr<int64_t>(), boxes.const_data_ptr<T>(), boxes.size(0), size,
           inside.mutable_data_ptr<bool>());
  });
  return inside;
}

Tensor points_in_polygons(const Tensor& points_tensor, const Tensor& ring_offsets, const Tensor& object_offsets,
                          const Tensor& index_tensor, const Tensor& queries_tensor) {
  check_polygons(points_tensor, ring_offsets, object_offsets, index_tensor, queries_tensor, "queries");
  check_points_of(queries_tensor, "queries", index_tensor);
  const Tensor points = torch::stable::contiguous(points_tensor), queries = torch::stable::contiguous(queries_tensor);
  const Tensor rings = torch::stable::contiguous(ring_offsets), objects = torch::stable::contiguous(object_offsets);
  const Tensor index = torch::stable::contiguous(index_tensor);
  Tensor inside = torch::stable::new_empty(queries, {queries.size(0), queries.size(1)}, ScalarType::Bool);
  for_box_type(points, "points", [&](auto zero) {
    using T = decltype(zero);
    launch(points, points_kernel<T>, blocks_for(inside.numel()), kThreads, polygons_of<T>(points, rings, objects),
           index.const_data_ptr<int64_t>(), queries.const_data_ptr<T>(), queries.size(0), queries.size(1),
           inside.mutable_data_ptr<bool>());
  });
  return inside;
}

Tensor cover_cells(const Tensor& runs_tensor, const Tensor& offsets_tensor, const Tensor& index_tensor,
                   const Tensor& boxes_tensor, int64_t height, int64_t width) {
  check_runs(runs_tensor, offsets_tensor, index_tensor, boxes_tensor, "boxes");
  check_dtype(boxes_tensor, "boxes", ScalarType::Double);
  check_boxes_of(boxes_tensor, index_tensor);
  check_cells(height, width);
  const Tensor runs = torch::stable::contiguous(runs_tensor), offsets = torch::stable::contiguous(offsets_tensor);
  const Tensor index = torch::stable::contiguous(index_tensor), boxes = torch::stable::contiguous(boxes_tensor);
  Tensor covered = torch::stable::new_empty(boxes, {boxes.size(0), height, width});
  launch(boxes, cover_kernel, blocks_for(covered.numel()), kThreads, runs_of(runs, offsets, index),
         boxes.const_data_ptr<double>(), boxes.size(0), height, width, covered.mutable_data_ptr<double>());
  return covered;
}

Tensor sample_runs(const Tensor& runs_tensor, const Tensor& offsets_tensor, const Tensor& index_tensor,
                   const Tensor& points_tensor, int64_t height, int64_t width) {
  check_runs(runs_tensor, offsets_tensor, index_tensor, points_tensor, "points");
  check_points_of(points_tensor, "points", index_tensor);
  check_frame(height, width);
  const Tensor runs = torch::stable::contiguous(runs_tensor), offsets = torch::stable::contiguous(offsets_tensor);
  const Tensor index = torch::stable::contiguous(index_tensor), points = torch::stable::contiguous(points_tensor);
  Tensor sampled = torch::stable::new_empty(points, {points.size(0), points.size(1)}, ScalarType::Float);
  for_box_type(points, "points", [&](auto zero) {
    using T = decltype(zero);
    launch(points, sample_kernel<T>, blocks_for(sampled.numel()), kThreads, runs_of(runs, offsets, index),
           points.const_data_ptr<T>(), points.size(0), points.size(1), height, width,
           sampled.mutable_data_ptr<float>());
  });
  return sampled;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, MASKRCNN_CUDA, m) {
  m.impl("crop_polygons", TORCH_BOX(&crop_polygons));
  m.impl("points_in_polygons", TORCH_BOX(&points_in_polygons));
  m.impl("cover_cells", TORCH_BOX(&cover_cells));
  m.impl("sample_runs", TORCH_BOX(&sample_runs));
}

}  // namespace maskrcnn
