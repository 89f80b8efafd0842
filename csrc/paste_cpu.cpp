// Pasted masks on the CPU, as bitmaps or as the runs of COCO's RLE.
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <tuple>
#include <vector>

#include "cpu.h"
#include "paste.h"
#include "rle.h"

namespace maskrcnn {
namespace {

// The taps of one axis of one box; pixel first + k has cell[k].
template <typename Acc>
struct AxisTaps {
  int64_t first = 0;
  std::vector<int32_t> cell;
  std::vector<Acc> weight_low, weight_high;

  void fill(Acc from, Acc to, int64_t cells, int64_t pixels) {
    cell.clear();
    weight_low.clear();
    weight_high.clear();
    const PasteAxis<Acc> axis = paste_axis(from, to, cells);
    int64_t begin = 0, end = 0;
    paste_window(axis, to, cells, pixels, &begin, &end);
    first = begin;
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      PasteTap<Acc> tap;
      if (!paste_tap(axis, pixel, cells, &tap)) continue;
      if (cell.empty()) first = pixel;  // those with a tap are neighbours: u grows with the pixel, rounded or not
      cell.push_back(static_cast<int32_t>(tap.cell));
      weight_low.push_back(tap.weight_low);
      weight_high.push_back(tap.weight_high);
    }
  }

  int64_t size() const { return static_cast<int64_t>(cell.size()); }
  int64_t end() const { return first + size(); }
};

// A row of the mask at all pixels across: `line` has a zero before its first and one after its last cell.
template <typename Acc>
struct Spread {
  static MASKRCNN_INLINE void run(const Acc* MASKRCNN_RESTRICT line, const AxisTaps<Acc>* taps,
                                  Acc* MASKRCNN_RESTRICT out) {
    const int64_t n = taps->size();
    const int32_t* cell = taps->cell.data();
    const Acc *low = taps->weight_low.data(), *high = taps->weight_high.data();
    for (int64_t x = 0; x < n; ++x) out[x] = blend(low[x], line[cell[x] + 1], high[x], line[cell[x] + 2]);
  }
};

// out = weight_low * low + weight_high * high, n numbers.
template <typename Acc>
struct Mix {
  static MASKRCNN_INLINE void run(Acc weight_low, const Acc* MASKRCNN_RESTRICT low, Acc weight_high,
                                  const Acc* MASKRCNN_RESTRICT high, int64_t n, Acc* MASKRCNN_RESTRICT out) {
    for (int64_t i = 0; i < n; ++i) out[i] = blend(weight_low, low[i], weight_high, high[i]);
  }
};

// The same, compared.
template <typename Acc>
struct MixAbove {
  static MASKRCNN_INLINE void run(Acc weight_low, const Acc* MASKRCNN_RESTRICT low, Acc weight_high,
                                  const Acc* MASKRCNN_RESTRICT high, Acc threshold, int64_t n,
                                  uint8_t* MASKRCNN_RESTRICT out) {
    for (int64_t i = 0; i < n; ++i) out[i] = blend(weight_low, low[i], weight_high, high[i]) >= threshold ? 1 : 0;
  }
};

// The mask with a border of zeros: (m + 2, m + 2), transposed on request.
template <typename T, typename Acc>
void pad(const T* mask, int64_t cells, bool transposed, std::vector<Acc>* padded) {
  const int64_t side = cells + 2;
  padded->assign(side * side, Acc(0));
  Acc* inner = padded->data() + side + 1;
  const int64_t down = transposed ? 1 : side, across = transposed ? side : 1;
  for (int64_t v = 0; v < cells; ++v) {
    for (int64_t u = 0; u < cells; ++u) inner[v * down + u * across] = static_cast<Acc>(mask[v * cells + u]);
  }
}

// Bitmaps of one mask after another, with the memory of the last one.
template <typename T>
class Paster {
 public:
  using Acc = Accumulator<T>;

  Paster(int64_t cells, int64_t height, int64_t width, double threshold)
      : cells_(cells), height_(height), width_(width), threshold_(static_cast<Acc>(threshold)) {}

  // Rows [begin, end) of the image.
  void paste(const T* mask, const Acc* box, int64_t begin, int64_t end, uint8_t* out) {
    across_.fill(box[0], box[2], cells_, width_);
    down_.fill(box[1], box[3], cells_, height_);
    if (across_.size() == 0 || down_.size() == 0) {
      std::memset(out, 0, (end - begin) * width_);
      return;
    }
    pad(mask, cells_, /*transposed=*/false, &padded_);
    low_.resize(across_.size());
    high_.resize(across_.size());
    const int64_t top = std::min(std::max(down_.first, begin), end), bottom = std::min(std::max(down_.end(), top), end);
    std::memset(out, 0, (top - begin) * width_);
    int64_t at = -3;  // no cell: low_ and high_ hold nothing yet
    for (int64_t y = top; y < bottom; ++y) {
      const int64_t k = y - down_.first, cell = down_.cell[k];
      if (cell != at) {
        if (cell == at + 1) {
          std::swap(low_, high_);
        } else {
          spread(cell, &low_);
        }
        spread(cell + 1, &high_);
        at = cell;
      }
      uint8_t* row = out + (y - begin) * width_;
      std::memset(row, 0, across_.first);
      dispatch<MixAbove<Acc>>(down_.weight_low[k], const_cast<const Acc*>(low_.data()), down_.weight_high[k],
                              const_cast<const Acc*>(high_.data()), threshold_, across_.size(), row + across_.first);
      std::memset(row + across_.end(), 0, width_ - across_.end());
    }
    std::memset(out + (bottom - begin) * width_, 0, (end - bottom) * width_);
  }

 private:
  void spread(int64_t cell, std::vector<Acc>* line) {
    const Acc* row = padded_.data() + (cell + 1) * (cells_ + 2);
    dispatch<Spread<Acc>>(row, const_cast<const AxisTaps<Acc>*>(&across_), line->data());
  }

  const int64_t cells_, height_, width_;
  const Acc threshold_;
  AxisTaps<Acc> across_, down_;
  std::vector<Acc> padded_, low_, high_;  // the two rows of the mask around the image's row, at its pixels
};

// Runs of one mask after another, with the memory of the last one. The work grows with the columns of a box times the
// cells of the mask, and with the pixels of those cells alone which the outline may cross.
template <typename T>
class RunFinder {
 public:
  using Acc = Accumulator<T>;

  RunFinder(int64_t cells, int64_t height, int64_t width, double threshold)
      : cells_(cells), height_(height), width_(width), threshold_(static_cast<Acc>(threshold)) {}

  void find(const T* mask, const Acc* box, std::vector<int64_t>* counts) {
    RunWriter runs(counts);
    across_.fill(box[0], box[2], cells_, width_);
    down_.fill(box[1], box[3], cells_, height_);
    if (across_.size() > 0 && down_.size() > 0) {
      const int64_t side = cells_ + 2;
      pad(mask, cells_, /*transposed=*/true, &padded_);
      column_.resize(side);
      find_stretches();
      for (int64_t k = 0; k < across_.size(); ++k) {
        const int64_t start = (across_.first + k) * height_;
        const Acc* left = padded_.data() + (across_.cell[k] + 1) * side;
        dispatch<Mix<Acc>>(across_.weight_low[k], left, across_.weight_high[k], left + side, side, column_.data());
        if (down_.first > 0) runs.set(start, false);
        follow_column(start + down_.first, &runs);
        if (down_.end() < height_) runs.set(start + down_.end(), false);
      }
      if (across_.end() < width_) runs.set(across_.end() * height_, false);
    }
    runs.end(height_ * width_);
  }

 private:
  // The rows between the same two cells, one stretch after the other.
  void find_stretches() {
    stretches_.clear();
    for (int64_t k = 0; k < down_.size(); ++k) {
      if (k == 0 || down_.cell[k] != down_.cell[k - 1]) stretches_.push_back(k);
    }
    stretches_.push_back(down_.size());
  }

  void follow_column(int64_t start, RunWriter* runs) const {
    for (size_t s = 0; s + 1 < stretches_.size(); ++s) {
      const int64_t first = stretches_[s], last = stretches_[s + 1];
      const Acc low = column_[down_.cell[first] + 1], high = column_[down_.cell[first] + 2];
      // What lies between two values stays between them, but for rounding; of NaN, both tests are false.
      const Acc slack = Acc(8) * std::numeric_limits<Acc>::epsilon() * (std::abs(low) + std::abs(high));
      const bool all_in = low - slack >= threshold_ && high - slack >= threshold_;
      const bool all_out = low + slack < threshold_ && high + slack < threshold_;
      if (all_in || all_out) {
        runs->set(start + first, all_in);
        continue;
      }
      for (int64_t k = first; k < last; ++k) {
        runs->set(start + k, blend(down_.weight_low[k], low, down_.weight_high[k], high) >= threshold_);
      }
    }
  }

  const int64_t cells_, height_, width_;
  const Acc threshold_;
  AxisTaps<Acc> across_, down_;
  std::vector<Acc> padded_, column_;  // the mask, columns first; one column of it, at a column of the image
  std::vector<int64_t> stretches_;    // where each begins, and where the last ends
};

Tensor paste_masks(const Tensor& masks_tensor, const Tensor& boxes_tensor, int64_t height, int64_t width,
                   double threshold) {
  check_paste(masks_tensor, boxes_tensor, height, width, threshold);
  const Tensor masks = torch::stable::contiguous(masks_tensor), boxes = torch::stable::contiguous(boxes_tensor);
  const int64_t count = masks.size(0), cells = masks.size(1), pixels = height * width;
  Tensor pasted = torch::stable::new_empty(masks, {count, height, width}, ScalarType::Bool);
  if (count * pixels == 0) return pasted;
  uint8_t* out = reinterpret_cast<uint8_t*>(pasted.mutable_data_ptr<bool>());
  for_floating_type(masks, "masks", [&](auto zero) {
    using T = decltype(zero);
    const T* mask = masks.const_data_ptr<T>();
    const auto* box = boxes.const_data_ptr<Accumulator<T>>();
    // Rows, not masks: one mask on a large image keeps all threads busy too.
    const int64_t grain = std::max<int64_t>(1, (1 << 16) / width);
    torch::stable::parallel_for(0, count * height, grain, [&](int64_t begin, int64_t end) {
      Paster<T> paster(cells, height, width, threshold);
      for (int64_t row = begin; row < end;) {
        const int64_t d = row / height, y = row % height, stop = std::min(height, y + end - row);
        paster.paste(mask + d * cells * cells, box + 4 * d, y, stop, out + row * width);
        row += stop - y;
      }
    });
  });
  return pasted;
}

// counts int64, the runs of all masks one mask after the other; lengths int64 (D,), how many of them each mask has
std::tuple<Tensor, Tensor> paste_runs(const Tensor& masks_tensor, const Tensor& boxes_tensor, int64_t height,
                                      int64_t width, double threshold) {
  check_paste(masks_tensor, boxes_tensor, height, width, threshold);
  const Tensor masks = torch::stable::contiguous(masks_tensor), boxes = torch::stable::contiguous(boxes_tensor);
  const int64_t count = masks.size(0), cells = masks.size(1);
  std::vector<std::vector<int64_t>> runs(count);
  for_floating_type(masks, "masks", [&](auto zero) {
    using T = decltype(zero);
    const T* mask = masks.const_data_ptr<T>();
    const auto* box = boxes.const_data_ptr<Accumulator<T>>();
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      RunFinder<T> finder(cells, height, width, threshold);
      for (int64_t d = begin; d < end; ++d) finder.find(mask + d * cells * cells, box + 4 * d, &runs[d]);
    });
  });
  return packed(masks, runs);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("paste_masks", TORCH_BOX(&paste_masks));
  m.impl("paste_runs", TORCH_BOX(&paste_runs));
}

}  // namespace maskrcnn
