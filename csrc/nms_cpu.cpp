// Greedy non-maximum suppression on the CPU. A box is compared with kept boxes only, many at a time, until one
// suppresses it. In a large group kept boxes are sorted by their left side: those that can overlap a box enough lie
// near it.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "box_columns.h"
#include "cpu.h"
#include "nms.h"
#include "radix_sort.h"

namespace maskrcnn {
namespace {

constexpr int64_t kLanes = 32;   // kept boxes that are compared before looking at the answer
constexpr int64_t kBlock = 256;  // candidates between two merges of the kept boxes

// Whether one of the kept boxes [first, last) suppresses this one. May look at up to kLanes - 1 boxes after `last`.
template <typename T>
MASKRCNN_INLINE bool is_suppressed(const Columns<T>& kept, int64_t first, int64_t last, const Corners<T>& box,
                                   T threshold) {
  for (int64_t k = first; k < last; k += kLanes) {
    T both[kLanes], either[kLanes];
    int32_t near = 0, found = 0;
    for (int64_t j = 0; j < kLanes; ++j) {
      const T left = kept.x1[k + j] > box.x1 ? kept.x1[k + j] : box.x1;
      const T top = kept.y1[k + j] > box.y1 ? kept.y1[k + j] : box.y1;
      const T right = kept.x2[k + j] < box.x2 ? kept.x2[k + j] : box.x2;
      const T bottom = kept.y2[k + j] < box.y2 ? kept.y2[k + j] : box.y2;
      const T w = right - left, h = bottom - top;
      both[j] = (w > T(0) ? w : T(0)) * (h > T(0) ? h : T(0));
      either[j] = kept.area[k + j] + box.area - both[j];
      // Rounding keeps order: a quotient above the threshold passes this test, so the few that pass are divided.
      near |= both[j] >= threshold * either[j] ? 1 : 0;
    }
    if (near == 0) continue;
    for (int64_t j = 0; j < kLanes; ++j) found |= both[j] / either[j] > threshold ? 1 : 0;
    if (found != 0) return true;
  }
  return false;
}

// One group: its boxes' indices by falling score, and where its kept boxes go.
template <typename T>
struct Group {
  const T* boxes;
  const int64_t* members;
  int64_t size;
  Columns<T> kept;
  char* keep;  // by index of the box
  T threshold;
  int64_t max_keep;
};

// Marks those of members [begin, end) that none of the `sorted` kept boxes suppresses. `fences` holds the left side of
// every kLanes-th of them: counting those is faster than a binary search, whose branches nothing can predict.
template <typename T>
struct CompareWithSorted {
  static MASKRCNN_INLINE void run(const Group<T>* group, const T* fences, int64_t sorted, int64_t begin, int64_t end) {
    // IoU > t means that the shared width is more than t times the wider width, so that
    // x1 - width (1 - t) / t < kept x1 < x1 + width (1 - t). The slack covers what rounding does to an IoU, except in
    // products so small that they lose digits.
    const T t = group->threshold * T(1 - 1e-4);
    const T smallest = std::numeric_limits<T>::min() / std::numeric_limits<T>::epsilon();
    for (int64_t k = begin; k < end; ++k) {
      const Corners<T> box = corners_of(group->boxes + 4 * group->members[k]);
      int64_t first = 0, last = sorted;
      if (t > T(1e-3) && box.area > smallest) {
        const T width = box.x2 - box.x1, low = box.x1 - width * ((T(1) - t) / t), high = box.x1 + width * (T(1) - t);
        int32_t below = 0, not_above = 0;
        for (int64_t j = 0; j < (sorted + kLanes - 1) / kLanes; ++j) {
          below += fences[j] < low ? 1 : 0;
          not_above += fences[j] <= high ? 1 : 0;
        }
        first = kLanes * std::max(below - 1, 0);
        last = kLanes * not_above;
      }
      group->keep[group->members[k]] =
          !can_overlap(box) || !is_suppressed(group->kept, first, last, box, group->threshold);
    }
  }
};

// Compares the marked of members [begin, end) with those kept among them, which it appends to the `sorted` kept boxes;
// gives how many it appended, and counts what it kept in `kept`.
template <typename T>
struct CompareWithEachOther {
  static MASKRCNN_INLINE int64_t run(const Group<T>* group, int64_t sorted, int64_t begin, int64_t end, int64_t* kept) {
    int64_t last = sorted;
    for (int64_t k = begin; k < end; ++k) {
      char& keep = group->keep[group->members[k]];
      if (!keep) continue;
      const Corners<T> box = corners_of(group->boxes + 4 * group->members[k]);
      keep = *kept < group->max_keep &&
             (!can_overlap(box) || !is_suppressed(group->kept, sorted, last, box, group->threshold));
      if (!keep) continue;
      ++*kept;
      if (can_overlap(box)) group->kept.set(last++, box);
    }
    return last - sorted;
  }
};

// Merges `added` boxes that follow the `sorted` ones into them.
template <typename T>
void merge(const Columns<T>& kept, int64_t sorted, int64_t added) {
  std::vector<Corners<T>> fresh(added);
  for (int64_t k = 0; k < added; ++k) fresh[k] = kept.get(sorted + k);
  std::sort(fresh.begin(), fresh.end(), [](const Corners<T>& a, const Corners<T>& b) { return a.x1 < b.x1; });
  for (int64_t from = sorted - 1, k = added - 1; k >= 0;) {
    const int64_t to = from + k + 1;
    if (from >= 0 && kept.x1[from] > fresh[k].x1) {
      kept.set(to, kept.get(from--));
    } else {
      kept.set(to, fresh[k--]);
    }
  }
}

template <typename T>
void suppress(const Group<T>& group) {
  std::vector<T> fences;
  int64_t sorted = 0, kept = 0;
  for (int64_t begin = 0; begin < group.size && kept < group.max_keep; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, group.size);
    torch::stable::parallel_for(begin, end, kBlock / 8, [&](int64_t from, int64_t to) {
      dispatch<CompareWithSorted<T>>(&group, static_cast<const T*>(fences.data()), sorted, from, to);
    });
    const int64_t added = dispatch<CompareWithEachOther<T>>(&group, sorted, begin, end, &kept);
    if (end == group.size) return;
    merge(group.kept, sorted, added);
    sorted += added;
    fences.clear();
    for (int64_t k = 0; k < sorted; k += kLanes) fences.push_back(group.kept.x1[k]);
  }
}

// What takes part of one image's boxes, in two orders.
struct Order {
  std::vector<int64_t> by_score, by_group;  // indices of boxes; within a group by falling score too
  std::vector<int64_t> starts;              // of the groups in by_group, and the end

  Order() = default;

  template <typename T, typename S>
  Order(const T* boxes, const S* scores, const int64_t* groups, int64_t count) {
    std::vector<Keyed> rows;
    rows.reserve(count);
    for (int64_t i = 0; i < count; ++i) {
      if (takes_part(boxes + 4 * i, scores[i])) rows.push_back({falling_bits(scores[i]), i});
    }
    radix_sort(rows);
    for (const Keyed& row : rows) by_score.push_back(row.value);
    starts.push_back(0);
    if (groups == nullptr) {
      by_group = by_score;
    } else {
      for (Keyed& row : rows) row.key = ordered_bits(groups[row.value]);
      radix_sort(rows);
      for (size_t k = 0; k < rows.size(); ++k) {
        if (k > 0 && rows[k].key != rows[k - 1].key) starts.push_back(static_cast<int64_t>(k));
        by_group.push_back(rows[k].value);
      }
    }
    starts.push_back(static_cast<int64_t>(rows.size()));
  }
};

// Suppression within the groups of several images, each with `count` boxes.
template <typename T>
class Suppression {
 public:
  std::vector<Order> orders;
  std::vector<char> keep;  // by image and box; not vector<bool>, whose neighbours share a byte between threads

  // `groups`: null where all boxes of an image compete; `groups_step`: 0 where images share them.
  Suppression(const T* boxes, const Tensor& scores, const int64_t* groups, int64_t groups_step, int64_t images,
              int64_t count, double threshold, int64_t max_keep)
      : keep(images * count, 0) {
    sort(boxes, scores, groups, groups_step, images, count);
    std::vector<Group<T>> all;
    int64_t total = 0, room = 0;
    for (int64_t image = 0; image < images; ++image) {
      const Order& order = orders[image];
      for (size_t g = 0; g + 1 < order.starts.size(); ++g) {
        const int64_t size = order.starts[g + 1] - order.starts[g];
        all.push_back({boxes + 4 * image * count, order.by_group.data() + order.starts[g], size, Columns<T>{},
                       keep.data() + image * count, static_cast<T>(threshold), max_keep});
        total += size;
        room += size + kLanes;
      }
    }
    Storage<T> storage(room);
    Columns<T> free = storage.columns();
    for (Group<T>& group : all) {
      group.kept = free;
      free = free + (group.size + kLanes);
    }
    // A group that is more than a thread's share is worked on by all threads, block by block; the others by one each.
    const int64_t share = std::max<int64_t>(total / torch::stable::get_num_threads(), kBlock);
    const auto small = std::partition(all.begin(), all.end(), [&](const Group<T>& g) { return g.size > share; });
    for (auto group = all.begin(); group != small; ++group) suppress(*group);
    torch::stable::parallel_for(0, all.end() - small, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) suppress(small[g]);
    });
  }

 private:
  void sort(const T* boxes, const Tensor& scores_tensor, const int64_t* groups, int64_t groups_step, int64_t images,
            int64_t count) {
    for_box_type(scores_tensor, "scores", [&](auto number) {
      const Tensor rows = torch::stable::contiguous(scores_tensor);
      const auto* scores = rows.const_data_ptr<decltype(number)>();
      orders.resize(images);
      torch::stable::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          orders[i] = Order(boxes + 4 * i * count, scores + i * count, groups + i * groups_step, count);
        }
      });
    });
  }
};

Tensor nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double iou_threshold) {
  check_nms(boxes, scores, groups, iou_threshold);
  const int64_t count = boxes.size(0);
  return for_box_type(boxes, "boxes", [&](auto number) {
    using T = decltype(number);
    const Tensor rows = torch::stable::contiguous(boxes);
    const std::optional<Tensor> ids = groups.has_value() ? std::optional(torch::stable::contiguous(*groups)) : groups;
    const int64_t* group_ids = ids.has_value() ? ids->const_data_ptr<int64_t>() : nullptr;
    const Suppression<T> done(rows.const_data_ptr<T>(), scores, group_ids, 0, 1, count, iou_threshold, count);
    const int64_t kept = std::count(done.keep.begin(), done.keep.end(), char(1));
    Tensor indices = torch::stable::new_empty(boxes, {kept}, ScalarType::Long);
    int64_t* to = indices.mutable_data_ptr<int64_t>();
    for (const int64_t i : done.orders[0].by_score) {
      if (done.keep[i]) *to++ = i;
    }
    return indices;
  });
}

std::tuple<Tensor, Tensor> padded_nms(const Tensor& boxes, const Tensor& scores, const Tensor& groups,
                                      double iou_threshold, int64_t max_keep) {
  check_padded_nms(boxes, scores, groups, iou_threshold, max_keep);
  const int64_t images = boxes.size(0), count = boxes.size(1);
  Tensor indices = torch::stable::new_empty(boxes, {images, max_keep}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(boxes, {images}, ScalarType::Long);
  for_box_type(boxes, "boxes", [&](auto number) {
    using T = decltype(number);
    const Tensor rows = torch::stable::contiguous(boxes), ids = torch::stable::contiguous(groups);
    const Suppression<T> done(rows.const_data_ptr<T>(), scores, ids.const_data_ptr<int64_t>(),
                              groups.dim() == 1 ? 0 : count, images, count, iou_threshold, max_keep);
    for (int64_t image = 0; image < images; ++image) {
      int64_t* to = indices.mutable_data_ptr<int64_t>() + image * max_keep;
      int64_t kept = 0;
      for (const int64_t i : done.orders[image].by_score) {
        if (kept < max_keep && done.keep[image * count + i]) to[kept++] = i;
      }
      std::fill(to + kept, to + max_keep, int64_t(-1));
      counts.mutable_data_ptr<int64_t>()[image] = kept;
    }
  });
  return {indices, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("padded_nms", TORCH_BOX(&padded_nms));
}

}  // namespace maskrcnn
