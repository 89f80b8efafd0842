// Soft-NMS on CUDA: boxes lie sorted by group, a block takes a group, and each of its threads some of the boxes.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda.cuh"
#include "soft_nms.h"
#include "stable_sort.h"

namespace maskrcnn {
namespace {

template <typename T>
__global__ void gather(const T* boxes, const T* scores, const int64_t* groups, const int64_t* order, int64_t count,
                       Corners<T>* sorted_boxes, T* sorted_scores, int64_t* sorted_groups) {
  MASKRCNN_GRID_STRIDE(i, count) {
    const T* box = boxes + 4 * order[i];
    const T score = scores[order[i]];
    sorted_boxes[i] = corners_of(box);
    sorted_scores[i] = can_decay(box, score) ? score : T(-1);
    sorted_groups[i] = groups[order[i]];
  }
}

// One block per box, but only the block of a group's first box has work: nobody counts the groups beforehand. Writes
// the score with which each box is taken to `final` (by index); that of the others stays. `scores` is used up.
template <typename T>
__global__ void soften(const Corners<T>* boxes, const int64_t* groups, const int64_t* order, int64_t count,
                       Decay<T> decay, T min_score, T* scores, T* final) {
  __shared__ T best_score[kThreads];
  __shared__ int64_t best_at[kThreads];
  const int64_t begin = blockIdx.x;
  if (begin > 0 && groups[begin] == groups[begin - 1]) return;
  int64_t end = count;
  for (int64_t low = begin + 1; low < end;) {  // the first box of a later group
    const int64_t middle = low + (end - low) / 2;
    if (groups[middle] > groups[begin]) {
      end = middle;
    } else {
      low = middle + 1;
    }
  }

  const int t = static_cast<int>(threadIdx.x);
  for (int64_t taken = -1;;) {
    // What the box that was taken last leaves of my boxes' scores, and the best of them.
    T best = min_score;
    int64_t at = -1;
    for (int64_t k = begin + t; k < end; k += kThreads) {
      if (k == taken) scores[k] = T(-1);
      if (!(scores[k] > min_score)) continue;
      if (taken >= 0) scores[k] *= decay(iou(boxes[taken], boxes[k]));
      if (scores[k] > best) {
        best = scores[k];
        at = k;
      }
    }
    best_score[t] = best;
    best_at[t] = at;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (t >= half || best_at[t + half] < 0) continue;
      const bool better = best_at[t] < 0 || best_score[t + half] > best_score[t];
      if (better || (best_score[t + half] == best_score[t] && best_at[t + half] < best_at[t])) {
        best_score[t] = best_score[t + half];
        best_at[t] = best_at[t + half];
      }
    }
    __syncthreads();
    taken = best_at[0];
    if (taken < 0) return;
    if (t == 0) final[order[taken]] = best_score[0];
    __syncthreads();
  }
}

// Scores in falling order, how many of them are above `min_score`.
template <typename T>
__global__ void collect(const T* final, const int64_t* order, int64_t count, T min_score, T* rescored, int64_t* kept) {
  MASKRCNN_GRID_STRIDE(i, count) {
    rescored[i] = final[order[i]];
    const bool next_is_kept = i + 1 < count && final[order[i + 1]] > min_score;
    if (rescored[i] > min_score && !next_is_kept) *kept = i + 1;
  }
}

template <typename T>
std::tuple<Tensor, Tensor> soft_nms_of(const Tensor& boxes_any, const Tensor& scores_any, const Tensor& groups_any,
                                       const Decay<T>& decay, T min_score) {
  const int64_t count = boxes_any.size(0);
  if (count == 0) {
    return {torch::stable::new_empty(boxes_any, {0}, ScalarType::Long), torch::stable::new_empty(scores_any, {0})};
  }
  const Tensor boxes = torch::stable::contiguous(boxes_any), scores = torch::stable::contiguous(scores_any);
  const Tensor groups = torch::stable::contiguous(groups_any), by_group = stable_sort(groups, false);
  static_assert(sizeof(Corners<T>) == 5 * sizeof(T));
  Tensor sorted_boxes = torch::stable::new_empty(boxes, {count, 5});
  Tensor sorted_scores = torch::stable::new_empty(boxes, {count});
  Tensor sorted_groups = torch::stable::new_empty(groups, {count});
  Corners<T>* box = reinterpret_cast<Corners<T>*>(sorted_boxes.mutable_data_ptr<T>());
  launch(boxes, gather<T>, blocks_for(count), kThreads, boxes.const_data_ptr<T>(), scores.const_data_ptr<T>(),
         groups.const_data_ptr<int64_t>(), by_group.const_data_ptr<int64_t>(), count, box,
         sorted_scores.mutable_data_ptr<T>(), sorted_groups.mutable_data_ptr<int64_t>());

  Tensor final = torch::stable::new_empty(boxes, {count});
  torch::stable::fill_(final, -1.0);
  launch(boxes, soften<T>, count, kThreads, box, sorted_groups.const_data_ptr<int64_t>(),
         by_group.const_data_ptr<int64_t>(), count, decay, min_score, sorted_scores.mutable_data_ptr<T>(),
         final.mutable_data_ptr<T>());

  const Tensor order = stable_sort(final, true);
  Tensor rescored = torch::stable::new_empty(boxes, {count});
  Tensor kept = torch::stable::new_zeros(boxes, {1}, ScalarType::Long);
  launch(boxes, collect<T>, blocks_for(count), kThreads, final.const_data_ptr<T>(), order.const_data_ptr<int64_t>(),
         count, min_score, rescored.mutable_data_ptr<T>(), kept.mutable_data_ptr<int64_t>());
  // The one wait for the device: the result's size is on it.
  const Tensor on_host = torch::stable::to(kept, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  const int64_t size = on_host.const_data_ptr<int64_t>()[0];
  Tensor all = order;
  return {torch::stable::narrow(all, 0, 0, size), torch::stable::narrow(rescored, 0, 0, size)};
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

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, MASKRCNN_CUDA, m) { m.impl("soft_nms", TORCH_BOX(&soft_nms)); }

}  // namespace maskrcnn
