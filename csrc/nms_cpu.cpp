// Greedy non-maximum suppression on the CPU. Each box is compared with the boxes kept so far, in blocks, until one
// suppresses it: most boxes of a detector meet their suppressor early, so few of the N^2 pairs are ever looked at.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "cpu.h"

namespace maskrcnn {
namespace {

template <typename T>
struct Corners {
  T x1, y1, x2, y2, area;
};

// The kept boxes of one group, one array per coordinate so that a block of them fits vector registers.
template <typename T>
struct Kept {
  std::vector<T> x1, y1, x2, y2, area;

  void add(const Corners<T>& box) {
    x1.push_back(box.x1);
    y1.push_back(box.y1);
    x2.push_back(box.x2);
    y2.push_back(box.y2);
    area.push_back(box.area);
  }
};

template <typename T>
struct IsSuppressed {
  static MASKRCNN_INLINE bool run(const Kept<T>* kept, Corners<T> box, T threshold) {
    const T *x1 = kept->x1.data(), *y1 = kept->y1.data(), *x2 = kept->x2.data(), *y2 = kept->y2.data();
    const T* area = kept->area.data();
    const int64_t count = static_cast<int64_t>(kept->area.size());
    constexpr int64_t kBlock = 64;
    int64_t k = 0;
    for (; k + kBlock <= count; k += kBlock) {
      if (any<kBlock>(x1 + k, y1 + k, x2 + k, y2 + k, area + k, box, threshold)) return true;
    }
    for (; k < count; ++k) {
      if (any<1>(x1 + k, y1 + k, x2 + k, y2 + k, area + k, box, threshold)) return true;
    }
    return false;
  }

 private:
  template <int64_t N>
  static MASKRCNN_INLINE bool any(const T* x1, const T* y1, const T* x2, const T* y2, const T* area, Corners<T> box,
                                  T threshold) {
    int32_t found = 0;
    for (int64_t j = 0; j < N; ++j) {
      const T left = x1[j] > box.x1 ? x1[j] : box.x1, top = y1[j] > box.y1 ? y1[j] : box.y1;
      const T right = x2[j] < box.x2 ? x2[j] : box.x2, bottom = y2[j] < box.y2 ? y2[j] : box.y2;
      const T w = right - left, h = bottom - top;
      const T width = w > T(0) ? w : T(0), height = h > T(0) ? h : T(0);
      const T both = width * height;
      // A division, as everywhere else: a product would decide ties otherwise. 0 / 0 compares as false.
      found |= both / (area[j] + box.area - both) > threshold ? 1 : 0;
    }
    return found != 0;
  }
};

template <typename T>
Tensor kept_indices(const Tensor& boxes_tensor, const Tensor& scores_tensor, const Tensor& groups_tensor,
                    double iou_threshold) {
  const int64_t count = boxes_tensor.size(0);
  const Tensor boxes_rows = torch::stable::contiguous(boxes_tensor);
  const Tensor scores_double = torch::stable::contiguous(torch::stable::to(scores_tensor, ScalarType::Double));
  const Tensor groups_rows = torch::stable::contiguous(groups_tensor);
  const T* boxes = boxes_rows.const_data_ptr<T>();
  const double* scores = scores_double.const_data_ptr<double>();
  const int64_t* groups = groups_tensor.numel() > 0 ? groups_rows.const_data_ptr<int64_t>() : nullptr;

  // What cannot be compared (a non-finite box, a score that is no number) is never kept.
  std::vector<int64_t> by_score;
  for (int64_t i = 0; i < count; ++i) {
    const T* b = boxes + 4 * i;
    if (std::isfinite(b[0]) && std::isfinite(b[1]) && std::isfinite(b[2]) && std::isfinite(b[3]) &&
        !std::isnan(scores[i])) {
      by_score.push_back(i);
    }
  }
  std::stable_sort(by_score.begin(), by_score.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });

  // Ranks (positions in by_score), group after group; within a group by falling score.
  const int64_t valid = static_cast<int64_t>(by_score.size());
  std::vector<int64_t> ranks(valid), starts{0};
  std::iota(ranks.begin(), ranks.end(), int64_t(0));
  if (groups != nullptr) {
    std::stable_sort(ranks.begin(), ranks.end(),
                     [&](int64_t a, int64_t b) { return groups[by_score[a]] < groups[by_score[b]]; });
    for (int64_t k = 1; k < valid; ++k) {
      if (groups[by_score[ranks[k]]] != groups[by_score[ranks[k - 1]]]) starts.push_back(k);
    }
  }
  starts.push_back(valid);

  std::vector<char> keep(valid, 0);  // by rank; not vector<bool>, whose neighbours share a byte between threads
  torch::stable::parallel_for(0, static_cast<int64_t>(starts.size()) - 1, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      Kept<T> kept;
      for (int64_t k = starts[g]; k < starts[g + 1]; ++k) {
        const T* b = boxes + 4 * by_score[ranks[k]];
        const T width = b[2] > b[0] ? b[2] - b[0] : T(0), height = b[3] > b[1] ? b[3] - b[1] : T(0);
        const Corners<T> box{b[0], b[1], b[2], b[3], width * height};
        if (dispatch<IsSuppressed<T>>(const_cast<const Kept<T>*>(&kept), box, static_cast<T>(iou_threshold))) continue;
        kept.add(box);
        keep[ranks[k]] = 1;
      }
    }
  });

  const int64_t total = std::count(keep.begin(), keep.end(), char(1));
  Tensor result = torch::stable::new_empty(boxes_tensor, {total}, ScalarType::Long);
  int64_t* to = result.mutable_data_ptr<int64_t>();
  for (int64_t k = 0; k < valid; ++k) {
    if (keep[k]) *to++ = by_score[k];
  }
  return result;
}

Tensor nms(const Tensor& boxes, const Tensor& scores, const Tensor& groups, double iou_threshold) {
  check(boxes.dim() == 2 && boxes.size(1) == 4, "boxes: expected shape (N, 4), got ", boxes.dim(), " dimensions");
  check(scores.dim() == 1 && scores.size(0) == boxes.size(0), "scores: expected shape (N,) with one score per box");
  check(groups.scalar_type() == ScalarType::Long, "groups: dtype ", torch::headeronly::toString(groups.scalar_type()),
        "; expected int64");
  check(groups.numel() == 0 || (groups.dim() == 1 && groups.size(0) == boxes.size(0)),
        "groups: expected shape (N,) with one group per box, or nothing");
  check(scores.is_cpu() && groups.is_cpu(), "scores, groups: expected tensors on the CPU, like the boxes");
  if (boxes.scalar_type() == ScalarType::Double) return kept_indices<double>(boxes, scores, groups, iou_threshold);
  check(boxes.scalar_type() == ScalarType::Float, "boxes: dtype ", torch::headeronly::toString(boxes.scalar_type()),
        "; expected float32 or float64");
  return kept_indices<float>(boxes, scores, groups, iou_threshold);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) { m.impl("nms", TORCH_BOX(&nms)); }

}  // namespace maskrcnn
