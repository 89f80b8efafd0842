// Soft-NMS on the CPU (Bodla et al. 2017, Fig. 2): group by group, the best box is taken, and the scores of those that
// remain decay by their overlap with it.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "box_columns.h"
#include "cpu.h"
#include "radix_sort.h"
#include "soft_nms.h"

namespace maskrcnn {
namespace {

// The boxes of a group that may still be taken, in the order of their indices.
template <typename T>
struct Remaining {
  Columns<T> boxes;
  T* scores;
  int64_t* indices;
  T* iou;  // with the box that was taken last
  int64_t size;
};

template <typename T>
struct Overlaps {
  static MASKRCNN_INLINE void run(const Remaining<T>* remaining, Corners<T> taken) {
    const T* MASKRCNN_RESTRICT x1 = remaining->boxes.x1;
    const T* MASKRCNN_RESTRICT y1 = remaining->boxes.y1;
    const T* MASKRCNN_RESTRICT x2 = remaining->boxes.x2;
    const T* MASKRCNN_RESTRICT y2 = remaining->boxes.y2;
    const T* MASKRCNN_RESTRICT area = remaining->boxes.area;
    T* MASKRCNN_RESTRICT iou = remaining->iou;
    for (int64_t k = 0; k < remaining->size; ++k) {
      const T left = x1[k] > taken.x1 ? x1[k] : taken.x1, top = y1[k] > taken.y1 ? y1[k] : taken.y1;
      const T right = x2[k] < taken.x2 ? x2[k] : taken.x2, bottom = y2[k] < taken.y2 ? y2[k] : taken.y2;
      const T w = right - left, h = bottom - top;
      const T both = (w > T(0) ? w : T(0)) * (h > T(0) ? h : T(0));
      iou[k] = both / (area[k] + taken.area - both);
    }
  }
};

// Drops boxes whose scores are no longer above `min_score`; the others keep their order.
template <typename T>
void compact(Remaining<T>* remaining, T min_score) {
  int64_t to = 0;
  for (int64_t k = 0; k < remaining->size; ++k) {
    if (!(remaining->scores[k] > min_score)) continue;
    remaining->boxes.set(to, remaining->boxes.get(k));
    remaining->scores[to] = remaining->scores[k];
    remaining->indices[to++] = remaining->indices[k];
  }
  remaining->size = to;
}

// Writes the score with which each box is taken to `final` (by index); that of the others stays.
template <typename T>
void soften(Remaining<T> remaining, const Decay<T>& decay, T min_score, T* final) {
  compact(&remaining, min_score);
  const T harmless = decay.harmless();
  int64_t dropped = 0;
  while (true) {
    T best = min_score;
    int64_t at = -1;  // of equal scores the first
    for (int64_t k = 0; k < remaining.size; ++k) {
      if (remaining.scores[k] > best) {
        best = remaining.scores[k];
        at = k;
      }
    }
    if (at < 0) return;
    final[remaining.indices[at]] = best;
    remaining.scores[at] = T(-1);
    ++dropped;
    dispatch<Overlaps<T>>(const_cast<const Remaining<T>*>(&remaining), remaining.boxes.get(at));
    for (int64_t k = 0; k < remaining.size; ++k) {
      if (!(remaining.iou[k] > harmless)) continue;
      const bool before = remaining.scores[k] > min_score;
      remaining.scores[k] *= decay(remaining.iou[k]);
      if (before && !(remaining.scores[k] > min_score)) ++dropped;
    }
    if (dropped > remaining.size / 2) {
      compact(&remaining, min_score);
      dropped = 0;
    }
  }
}

template <typename T>
std::tuple<Tensor, Tensor> soft_nms_of(const Tensor& boxes_any, const Tensor& scores_any, const Tensor& groups_any,
                                       const Decay<T>& decay, T min_score) {
  const Tensor boxes = torch::stable::contiguous(boxes_any), scores = torch::stable::contiguous(scores_any);
  const Tensor groups = torch::stable::contiguous(groups_any);
  const T* box = boxes.const_data_ptr<T>();
  const T* score = scores.const_data_ptr<T>();
  const int64_t* group = groups.const_data_ptr<int64_t>();
  const int64_t count = boxes.size(0);

  std::vector<Keyed> rows;
  for (int64_t i = 0; i < count; ++i) {
    if (can_decay(box + 4 * i, score[i])) rows.push_back({ordered_bits(group[i]), i});
  }
  radix_sort(rows);
  const int64_t size = static_cast<int64_t>(rows.size());
  Storage<T> storage(size);
  std::vector<T> current(size), iou(size), final(count, T(-1));
  std::vector<int64_t> indices(size), starts;
  for (int64_t k = 0; k < size; ++k) {
    if (k == 0 || rows[k].key != rows[k - 1].key) starts.push_back(k);
    indices[k] = rows[k].value;
    current[k] = score[indices[k]];
    storage.columns().set(k, corners_of(box + 4 * indices[k]));
  }
  starts.push_back(size);
  torch::stable::parallel_for(0, static_cast<int64_t>(starts.size()) - 1, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t first = starts[g];
      const Remaining<T> remaining{storage.columns() + first, current.data() + first, indices.data() + first,
                                   iou.data() + first, starts[g + 1] - first};
      soften(remaining, decay, min_score, final.data());
    }
  });

  rows.clear();
  for (int64_t i = 0; i < count; ++i) {
    if (final[i] > min_score) rows.push_back({falling_bits(final[i]), i});
  }
  radix_sort(rows);
  const int64_t kept = static_cast<int64_t>(rows.size());
  Tensor order = torch::stable::new_empty(boxes, {kept}, ScalarType::Long);
  Tensor rescored = torch::stable::new_empty(scores, {kept});
  for (int64_t k = 0; k < kept; ++k) {
    order.mutable_data_ptr<int64_t>()[k] = rows[k].value;
    rescored.mutable_data_ptr<T>()[k] = final[rows[k].value];
  }
  return {order, rescored};
}

std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores, const Tensor& groups,
                                    double iou_threshold, bool gaussian, double sigma, double min_score) {
  check_soft_nms(boxes, scores, groups, iou_threshold, sigma, min_score);
  return for_box_type(boxes, "boxes", [&](auto number) {
    using T = decltype(number);
    const Decay<T> decay{static_cast<T>(iou_threshold), static_cast<T>(sigma), gaussian};
    return soft_nms_of<T>(boxes, scores, groups, decay, static_cast<T>(min_score));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) { m.impl("soft_nms", TORCH_BOX(&soft_nms)); }

}  // namespace maskrcnn
