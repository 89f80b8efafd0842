// Greedy non-maximum suppression on CUDA, of several images at once. Candidates lie sorted by falling score; which of
// the later ones each suppresses is worked out for all pairs at once, as bits, and one block per image then goes
// through the bits in order. Nothing waits for the host.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda.cuh"
#include "nms.h"
#include "stable_sort.h"

namespace maskrcnn {
namespace {

constexpr int kWord = 64;        // bits
constexpr int64_t kRows = 2048;  // candidates of an image whose bits are held at a time, or memory would grow squared

// `images` times `count` candidates, sorted within each image.
template <typename T>
struct Candidates {
  const Corners<T>* boxes;  // of negative area where a box takes no part
  const int64_t* groups;    // or null
  const int64_t* indices;   // of the box that a candidate is
  int64_t images, count, words;
  T threshold;
};

// What is known of each image's candidates.
struct Progress {
  uint64_t* removed;  // (images, words): a bit for each candidate that a kept one suppresses
  int64_t* counts;    // (images,): kept so far
  int64_t* kept;      // (images, max_keep): their indices
  int64_t max_keep;
};

// Boxes that take no part go last.
template <typename T, typename S>
__global__ void sort_keys(const T* boxes, const S* scores, int64_t total, S* keys) {
  MASKRCNN_GRID_STRIDE(i, total) {
    keys[i] = takes_part(boxes + 4 * i, scores[i]) ? scores[i] : -S(INFINITY);
  }
}

template <typename T, typename S>
__global__ void gather(const T* boxes, const S* scores, const int64_t* groups, int64_t groups_step,
                       const int64_t* indices, int64_t total, int64_t count, Corners<T>* sorted_boxes,
                       int64_t* sorted_groups) {
  MASKRCNN_GRID_STRIDE(i, total) {
    const int64_t image = i / count, at = image * count + indices[i];
    Corners<T> box = corners_of(boxes + 4 * at);
    if (!takes_part(boxes + 4 * at, scores[at])) box.area = T(-1);
    sorted_boxes[i] = box;
    if (groups != nullptr) sorted_groups[i] = groups[image * groups_step + indices[i]];
  }
}

// bits (images, rows, words): which candidates does candidate start + row suppress, were it kept? A block takes kWord
// candidates and one word of later ones.
template <typename T>
__global__ void compare(Candidates<T> c, Progress progress, int64_t start, int64_t rows, uint64_t* bits) {
  __shared__ Corners<T> others[kWord];
  __shared__ int64_t other_groups[kWord];
  const int64_t row_words = (rows + kWord - 1) / kWord;
  const int64_t word = blockIdx.x % c.words, row_word = blockIdx.x / c.words % row_words;
  const int64_t image = blockIdx.x / c.words / row_words;
  if (word < start / kWord + row_word || progress.counts[image] >= progress.max_keep) return;

  const int t = static_cast<int>(threadIdx.x);
  const int64_t other = word * kWord + t, row = row_word * kWord + t, me = start + row;
  const int64_t first = image * c.count;
  if (other < c.count) {
    others[t] = c.boxes[first + other];
    if (c.groups != nullptr) other_groups[t] = c.groups[first + other];
  }
  __syncthreads();
  if (row >= rows) return;
  const Corners<T> box = c.boxes[first + me];
  const bool removed = progress.removed[image * c.words + me / kWord] >> (me % kWord) & 1;
  uint64_t found = 0;
  if (!removed && can_overlap(box)) {
    const int64_t group = c.groups != nullptr ? c.groups[first + me] : 0;
    const int64_t left = c.count - word * kWord;
    const int last = left < kWord ? static_cast<int>(left) : kWord;
    for (int j = word * kWord > me ? 0 : static_cast<int>(me - word * kWord) + 1; j < last; ++j) {
      if ((c.groups == nullptr || other_groups[j] == group) && iou(box, others[j]) > c.threshold) {
        found |= uint64_t(1) << j;
      }
    }
  }
  bits[(image * rows + row) * c.words + word] = found;
}

// Goes through candidates start..start + rows - 1 of an image by falling score, a word at a time: one thread decides
// within the word, then all of them carry what its kept boxes suppress to the words that follow.
template <typename T>
__global__ void decide(Candidates<T> c, Progress progress, int64_t start, int64_t rows, const uint64_t* bits) {
  __shared__ uint64_t within[kWord];
  __shared__ bool is_candidate[kWord];
  __shared__ uint64_t chosen;
  __shared__ bool full;
  const int64_t image = blockIdx.x, first = image * c.count;
  uint64_t* removed = progress.removed + image * c.words;
  for (int64_t begin = 0; begin < rows; begin += kWord) {
    const int64_t word = (start + begin) / kWord;
    const uint64_t* word_bits = bits + (image * rows + begin) * c.words;
    const int size = static_cast<int>(rows - begin < kWord ? rows - begin : kWord);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
      within[i] = word_bits[i * c.words + word];
      is_candidate[i] = c.boxes[first + start + begin + i].area >= T(0);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      uint64_t gone = removed[word], keep = 0;
      int64_t count = progress.counts[image];
      for (int i = 0; i < size && count < progress.max_keep; ++i) {
        if (gone >> i & 1 || !is_candidate[i]) continue;
        keep |= uint64_t(1) << i;
        gone |= within[i];
        progress.kept[image * progress.max_keep + count++] = c.indices[first + start + begin + i];
      }
      progress.counts[image] = count;
      chosen = keep;
      full = count >= progress.max_keep;
    }
    __syncthreads();
    if (full) return;
    for (int64_t w = word + 1 + threadIdx.x; w < c.words; w += blockDim.x) {
      uint64_t gone = removed[w];
      for (int i = 0; i < size; ++i) {
        if (chosen >> i & 1) gone |= word_bits[i * c.words + w];
      }
      removed[w] = gone;
    }
  }
}

// Fills `kept` (images, max_keep), which holds -1, and `counts` (images,), which holds 0.
template <typename T, typename S>
void suppress(const Tensor& boxes_any, const Tensor& scores_any, const std::optional<Tensor>& groups_any,
              int64_t images, int64_t count, double threshold, int64_t max_keep, Tensor& kept, Tensor& counts) {
  const int64_t total = images * count;
  if (total == 0 || max_keep == 0) return;
  const Tensor boxes = torch::stable::contiguous(boxes_any), scores = torch::stable::contiguous(scores_any);
  const T* box = boxes.const_data_ptr<T>();
  const S* score = scores.const_data_ptr<S>();
  Tensor keys = torch::stable::new_empty(scores, {images, count});
  launch(boxes, sort_keys<T, S>, blocks_for(total), kThreads, box, score, total, keys.mutable_data_ptr<S>());
  const Tensor order = stable_sort(keys, true);

  static_assert(sizeof(Corners<T>) == 5 * sizeof(T));
  Tensor sorted = torch::stable::new_empty(boxes, {total, 5});
  Corners<T>* sorted_boxes = reinterpret_cast<Corners<T>*>(sorted.mutable_data_ptr<T>());
  Tensor sorted_groups = torch::stable::new_empty(boxes, {groups_any.has_value() ? total : 0}, ScalarType::Long);
  const Tensor groups = groups_any.has_value() ? torch::stable::contiguous(*groups_any) : sorted_groups;
  const int64_t* group = groups_any.has_value() ? groups.const_data_ptr<int64_t>() : nullptr;
  launch(boxes, gather<T, S>, blocks_for(total), kThreads, box, score, group, groups.numel() == total ? count : 0,
         order.const_data_ptr<int64_t>(), total, count, sorted_boxes, sorted_groups.mutable_data_ptr<int64_t>());

  const int64_t words = (count + kWord - 1) / kWord, most_rows = std::min(count, kRows);
  const Candidates<T> candidates{sorted_boxes,
                                 group == nullptr ? nullptr : sorted_groups.const_data_ptr<int64_t>(),
                                 order.const_data_ptr<int64_t>(),
                                 images,
                                 count,
                                 words,
                                 static_cast<T>(threshold)};
  Tensor removed = torch::stable::new_zeros(boxes, {images, words}, ScalarType::Long);
  Tensor bits = torch::stable::new_empty(boxes, {images, most_rows, words}, ScalarType::Long);
  uint64_t* bit = reinterpret_cast<uint64_t*>(bits.mutable_data_ptr<int64_t>());
  const Progress progress{reinterpret_cast<uint64_t*>(removed.mutable_data_ptr<int64_t>()),
                          counts.mutable_data_ptr<int64_t>(), kept.mutable_data_ptr<int64_t>(), max_keep};
  for (int64_t start = 0; start < count; start += kRows) {
    const int64_t rows = std::min(kRows, count - start);
    launch(boxes, compare<T>, images * ((rows + kWord - 1) / kWord) * words, kWord, candidates, progress, start, rows,
           bit);
    launch(boxes, decide<T>, images, kThreads, candidates, progress, start, rows, bit);
  }
}

void suppress_any(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, int64_t images,
                  int64_t count, double threshold, int64_t max_keep, Tensor& kept, Tensor& counts) {
  for_box_type(boxes, "boxes", [&](auto number) {
    for_box_type(scores, "scores", [&](auto score) {
      suppress<decltype(number), decltype(score)>(boxes, scores, groups, images, count, threshold, max_keep, kept,
                                                  counts);
    });
  });
}

Tensor nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double iou_threshold) {
  check_nms(boxes, scores, groups, iou_threshold);
  const int64_t count = boxes.size(0);
  Tensor kept = torch::stable::new_empty(boxes, {count}, ScalarType::Long);
  Tensor counts = torch::stable::new_zeros(boxes, {1}, ScalarType::Long);
  suppress_any(boxes, scores, groups, 1, count, iou_threshold, count, kept, counts);
  // The one wait for the device: the result's size is on it.
  const Tensor on_host = torch::stable::to(counts, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  return torch::stable::narrow(kept, 0, 0, on_host.const_data_ptr<int64_t>()[0]);
}

std::tuple<Tensor, Tensor> padded_nms(const Tensor& boxes, const Tensor& scores, const Tensor& groups,
                                      double iou_threshold, int64_t max_keep) {
  check_padded_nms(boxes, scores, groups, iou_threshold, max_keep);
  const int64_t images = boxes.size(0), count = boxes.size(1);
  Tensor kept = torch::stable::new_empty(boxes, {images, max_keep}, ScalarType::Long);
  torch::stable::fill_(kept, -1.0);
  Tensor counts = torch::stable::new_zeros(boxes, {images}, ScalarType::Long);
  suppress_any(boxes, scores, groups, images, count, iou_threshold, max_keep, kept, counts);
  return {kept, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, MASKRCNN_CUDA, m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("padded_nms", TORCH_BOX(&padded_nms));
}

}  // namespace maskrcnn
