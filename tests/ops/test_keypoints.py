import functools
import math

import cv2
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from maskrcnn.ops import decode_keypoints, reference
from maskrcnn.ops.extension import COMPILED
from ops import cuda_on_cpu

BOXES = {
    "person": (10.3, 20.1, 61.7, 170.9),
    "whole pixels": (4, 8, 20, 40),
    "smaller than the map": (3.2, 1.5, 9.1, 5.25),
    "one pixel": (7, 9, 8, 10),
    "less than a pixel": (7.2, 9.1, 7.6, 9.4),
    "no area": (5, 5, 5, 5),
    "inverted": (30, 40, 10, 12),
    "outside the image": (-90.5, -70.25, -40, -10),
    "long": (0, 3, 300.5, 4.5),
}
BEYOND = {"huge": (-1e30, -1e30, 1e30, 1e30), "beyond the samples": (1, 1, 9001, 3)}
needs_compiled = pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")


@pytest.fixture(params=["operator", "reference", "cuda on cpu", "cuda"])
def decode(request):
    """Each implementation, as x, y, logit."""
    if request.param == "cuda on cpu":
        return cuda_on_cpu.operators().decode_keypoints
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        return lambda heatmaps, boxes: decode_keypoints(heatmaps.cuda(), boxes.cuda()).cpu()
    return decode_keypoints if request.param == "operator" else reference.decode_keypoints


def resized(heatmap, box):
    """A map at the size of its box, by torch, and the two sides of the box."""
    sides = [max(box[3] - box[1], 1.0), max(box[2] - box[0], 1.0)]
    size = [math.ceil(side) for side in sides]
    return F.interpolate(heatmap[None, None], size, mode="bicubic", align_corners=False)[0, 0], sides


def decode_one_by_one(heatmaps, boxes):
    """Every map resized by torch, and the first largest sample of each."""
    out = heatmaps.new_zeros(*heatmaps.shape[:2], 3)
    for r, box in enumerate(boxes.tolist()):
        for k, heatmap in enumerate(heatmaps[r]):
            large, (height, width) = resized(heatmap, box)
            index = int(large.flatten().argmax())
            y, x = divmod(index, large.shape[1])
            out[r, k, 0] = box[0] + (x + 0.5) * width / large.shape[1]
            out[r, k, 1] = box[1] + (y + 0.5) * height / large.shape[0]
            out[r, k, 2] = large[y, x]
    return out


def some_heatmaps(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def some_boxes(dtype=torch.float64):
    return torch.tensor(list(BOXES.values()), dtype=dtype)


@pytest.mark.parametrize("box", list(BOXES.values()), ids=list(BOXES))
def test_is_the_first_largest_sample(decode, box):
    heatmaps, boxes = some_heatmaps((1, 5, 14, 14)), torch.tensor([box], dtype=torch.float64)
    torch.testing.assert_close(decode(heatmaps, boxes), decode_one_by_one(heatmaps, boxes), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("side", [2, 3, 28, 56])
def test_many_boxes_and_sides_of_the_map(decode, side):
    heatmaps, boxes = some_heatmaps((len(BOXES), 2, side, side), seed=side), some_boxes()
    torch.testing.assert_close(decode(heatmaps, boxes), decode_one_by_one(heatmaps, boxes), atol=1e-10, rtol=1e-10)


def test_maps_need_not_be_square(decode):
    heatmaps, boxes = some_heatmaps((len(BOXES), 2, 5, 9)), some_boxes()
    torch.testing.assert_close(decode(heatmaps, boxes), decode_one_by_one(heatmaps, boxes), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", ["noise", "peaks", "nearly flat", "large values", "a ridge"])
def test_no_bound_hides_the_peak(decode, kind):
    """Few samples are looked at; the one that torch finds among all of them may not be missed."""
    generator = torch.Generator().manual_seed(5)
    heatmaps = torch.randn(12, 4, 20, 20, generator=generator)
    if kind == "peaks":
        heatmaps = heatmaps - 30 + 60 * (torch.rand(12, 4, 20, 20, generator=generator) > 0.98)
    elif kind == "nearly flat":
        heatmaps = 100 + heatmaps * 1e-4
    elif kind == "large values":
        heatmaps = heatmaps * 1e30
    elif kind == "a ridge":
        heatmaps = heatmaps * 1e-3 + torch.eye(20) * 5
    corner = torch.rand(12, 2, generator=generator) * 50
    boxes = torch.cat((corner, corner + torch.rand(12, 2, generator=generator) * 90 + 1), dim=1)
    ours, scale = decode(heatmaps, boxes), heatmaps.abs().max()
    for r, box in enumerate(boxes.tolist()):
        for k in range(4):
            large, (height, width) = resized(heatmaps[r, k], box)
            x, y, value = ours[r, k].tolist()
            column, row = (x - box[0]) / width * large.shape[1] - 0.5, (y - box[1]) / height * large.shape[0] - 0.5
            assert column == pytest.approx(round(column), abs=1e-3) and row == pytest.approx(round(row), abs=1e-3)
            at_point = large[round(row), round(column)]
            assert abs(value - at_point) <= 1e-5 * scale
            assert large.max() - at_point <= 2e-6 * scale  # a tie but for rounding


def test_agrees_with_torchvision(decode):
    """In float32: the same points (but where two samples tie by rounding), and scores within 1e-5."""
    heatmaps, boxes = some_heatmaps((len(BOXES), 4, 56, 56), torch.float32), some_boxes(torch.float32)
    points, scores = heatmaps_to_keypoints(heatmaps, boxes)
    ours = decode(heatmaps, boxes)
    torch.testing.assert_close(ours[..., 2], scores, atol=1e-5, rtol=1e-5)
    assert (ours[..., :2] - points[..., :2]).abs().amax(dim=2).le(1e-3).float().mean() > 0.9


def test_agrees_with_opencv(decode):
    """OpenCV's cubic is Detectron's; it computes its weights otherwise, within 1e-4."""
    heatmaps, box = some_heatmaps((1, 4, 56, 56), torch.float32), BOXES["person"]
    ours = decode(heatmaps, torch.tensor([box]))
    for heatmap, (x, y, value) in zip(heatmaps[0], ours[0].tolist(), strict=True):
        large = cv2.resize(heatmap.numpy(), (52, 151), interpolation=cv2.INTER_CUBIC)
        row, column = divmod(int(large.argmax()), 52)
        assert value == pytest.approx(float(large.max()), abs=1e-4)
        assert x == pytest.approx(box[0] + (column + 0.5) * (box[2] - box[0]) / 52, abs=1e-3)
        assert y == pytest.approx(box[1] + (row + 0.5) * (box[3] - box[1]) / 151, abs=1e-3)


def test_of_equal_samples_the_first(decode):
    heatmaps = torch.zeros(1, 2, 8, 8)
    heatmaps[0, 1, [2, 2, 5, 5], [5, 2, 5, 2]] = 1.0  # four equal peaks
    out = decode(heatmaps, torch.tensor([[0.0, 0, 8, 8]]))
    assert out.tolist() == [[[0.5, 0.5, 0.0], [2.5, 2.5, 1.0]]]


def test_rounding_does_not_choose_on_a_flat_map(decode):
    for side in (1, 14):
        flat = torch.full((1, 1, side, side), 0.1)
        for box in ((2.0, 3.0, 90.0, 70.0), BEYOND["huge"]):
            x, y, logit = decode(flat, torch.tensor([box]))[0, 0].tolist()
            samples = [8192, 8192] if box == BEYOND["huge"] else [88, 67]
            assert x == pytest.approx(box[0] + (box[2] - box[0]) / samples[0] / 2)
            assert y == pytest.approx(box[1] + (box[3] - box[1]) / samples[1] / 2)
            assert logit == pytest.approx(0.1)


def test_probability_is_the_softmax_of_the_map():
    heatmaps, boxes = 3 * some_heatmaps((len(BOXES), 3, 14, 14)), some_boxes()
    logits, ours = decode_keypoints(heatmaps, boxes), decode_keypoints(heatmaps, boxes, score="probability")
    torch.testing.assert_close(ours[..., :2], logits[..., :2], atol=0, rtol=0)
    for r in range(len(boxes)):
        for k in range(3):
            expected = math.exp(logits[r, k, 2]) / sum(math.exp(v) for v in heatmaps[r, k].flatten().tolist())
            assert ours[r, k, 2].item() == pytest.approx(expected, rel=1e-10)
    on_cells = torch.tensor([[0.0, 0, 14, 14]], dtype=torch.float64)  # no resizing: then it is exactly the softmax
    ours = decode_keypoints(heatmaps[:1], on_cells, score="probability")
    torch.testing.assert_close(ours[0, :, 2], heatmaps[0].flatten(1).softmax(dim=1).amax(dim=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_interpolated_in_float32(decode, dtype):
    half, boxes = some_heatmaps((len(BOXES), 3, 14, 14)).to(dtype), some_boxes(torch.float32)
    ours = decode(half, boxes)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, decode(half.float(), boxes), atol=0, rtol=0)


def test_any_layout_gives_the_same(decode):
    heatmaps, boxes = some_heatmaps((len(BOXES), 3, 14, 14), torch.float32), some_boxes(torch.float32)
    expected = decode(heatmaps, boxes)
    others = [
        heatmaps.contiguous(memory_format=torch.channels_last),
        torch.stack((heatmaps, heatmaps), dim=-1)[..., 1],
        heatmaps.flip(-2).flip(-2),
        heatmaps.mT.contiguous().mT,
    ]
    for other in others:
        torch.testing.assert_close(decode(other, boxes), expected, atol=0, rtol=0)
    strided = torch.cat((boxes, boxes), dim=1)[:, 2:6].roll(2, dims=1)
    torch.testing.assert_close(decode(heatmaps, strided), expected, atol=0, rtol=0)
    same = heatmaps[:1, :1].expand(len(boxes), 3, 14, 14)
    torch.testing.assert_close(decode(same, boxes), decode(same.contiguous(), boxes), atol=0, rtol=0)


def test_nothing_in_nothing_out(decode):
    assert decode(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 3)
    assert decode(torch.zeros(3, 0, 56, 56), torch.zeros(3, 4)).shape == (3, 0, 3)
    assert decode(torch.ones(1, 1, 1, 1), torch.tensor([[2.0, 4, 3, 6]])).tolist() == [[[2.5, 4.5, 1.0]]]


def test_what_is_not_finite_gives_nan_in_its_own_row(decode):
    heatmaps = some_heatmaps((7, 3, 14, 14), torch.float32)
    bad = [(math.nan, 0, 9, 9), (0, 0, math.inf, 9), (0, -math.inf, 9, 9), (-3e38, 0, 3e38, 9), (0, 0, 9, math.nan)]
    boxes = torch.tensor([*bad, BOXES["person"], BOXES["person"]])
    heatmaps[5, 0, 3, 4], heatmaps[5, 2, 13, 13], heatmaps[6, 1, 0, 0] = math.nan, -math.inf, 3e38
    expected = torch.tensor([[True] * 3] * 5 + [[True, False, True], [False, True, False]])
    out = decode(heatmaps, boxes)
    assert torch.equal(out.isnan().all(dim=2), expected) and torch.equal(out.isnan().any(dim=2), expected)
    torch.testing.assert_close(out[~expected], decode_one_by_one(heatmaps, boxes[5:6].expand(7, 4))[~expected])


def test_boxes_beyond_any_image_are_sampled_at_8192_points(decode):
    heatmaps = some_heatmaps((1, 1, 8, 8))
    long = torch.tensor([BEYOND["beyond the samples"]], dtype=torch.float64)
    large = F.interpolate(heatmaps, (2, 8192), mode="bicubic")[0, 0]
    y, x = divmod(int(large.argmax()), 8192)
    expected = [1 + (x + 0.5) * 9000 / 8192, 1 + y + 0.5, large.max().item()]
    assert decode(heatmaps, long)[0, 0].tolist() == pytest.approx(expected)


def test_huge_boxes_take_no_longer():
    """Both sides beyond the samples: by far the most of the 67 million are never looked at."""
    heatmaps = some_heatmaps((1, 3, 14, 14))
    out = decode_keypoints(heatmaps, torch.tensor([BEYOND["huge"]], dtype=torch.float64))
    small = decode_keypoints(heatmaps, torch.tensor([[0.0, 0, 2000, 2000]], dtype=torch.float64))
    torch.testing.assert_close(out[..., :2] / 2e30 + 0.5, small[..., :2] / 2000, atol=1e-3, rtol=0)
    torch.testing.assert_close(out[..., 2], small[..., 2], atol=1e-4, rtol=0)


@needs_compiled
def test_the_implementations_agree_to_the_bit():
    """The CUDA kernel's source and the CPU's: the same arithmetic in the same order."""
    heatmaps, boxes = some_heatmaps((len(BOXES), 3, 28, 28), torch.float32), some_boxes(torch.float32)
    ours = cuda_on_cpu.operators().decode_keypoints(heatmaps, boxes)
    assert torch.equal(decode_keypoints(heatmaps, boxes), ours)


@needs_compiled
def test_any_number_of_threads_gives_the_same():
    heatmaps, boxes = some_heatmaps((len(BOXES), 7, 14, 14), torch.float32), some_boxes(torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(decode_keypoints(heatmaps, boxes))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("heatmaps", {"heatmaps": torch.zeros(2, 14, 14)}),
        ("heatmaps", {"heatmaps": torch.zeros(2, 3, 14, 14, dtype=torch.int32)}),
        ("heatmaps", {"heatmaps": torch.zeros(2, 3, 0, 14)}),
        ("boxes", {"boxes": torch.zeros(3, 4)}),
        ("boxes", {"boxes": torch.zeros(2, 5)}),
        ("boxes", {"boxes": torch.zeros(2, 4, dtype=torch.float64)}),
        ("boxes", {"boxes": torch.zeros(2, 4, device="meta")}),
        ("score", {"score": "softmax"}),
    ],
)
def test_errors_name_the_argument(argument, changes):
    good = {"heatmaps": torch.zeros(2, 3, 14, 14), "boxes": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=f"^{argument}: "):
        decode_keypoints(**(good | changes))
    if argument != "score" and COMPILED and (good | changes)["boxes"].device.type == "cpu":
        with pytest.raises(ValueError, match=f"{argument}: "):  # for those who call it directly
            torch.ops.maskrcnn.decode_keypoints(*(good | changes).values())


def test_has_no_gradient():
    heatmaps = some_heatmaps((2, 3, 14, 14)).requires_grad_()
    out = decode_keypoints(heatmaps, some_boxes()[:2].requires_grad_())
    assert not out.requires_grad


@needs_compiled
def test_opcheck():
    heatmaps, boxes = some_heatmaps((len(BOXES), 3, 14, 14), torch.float32), some_boxes(torch.float32)
    operator = torch.ops.maskrcnn.decode_keypoints.default
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.library.opcheck(operator, (heatmaps.contiguous(memory_format=layout), boxes))
    torch.library.opcheck(operator, (heatmaps[:0], boxes[:0]))
    torch.library.opcheck(operator, (heatmaps.bfloat16(), boxes))


@needs_compiled
@pytest.mark.parametrize("score", ["logit", "probability"])
def test_in_a_compiled_function(score):
    heatmaps, boxes = some_heatmaps((len(BOXES), 3, 14, 14), torch.float32), some_boxes(torch.float32)
    decode = functools.partial(decode_keypoints, score=score)
    compiled = torch.compile(decode, backend="aot_eager", fullgraph=True, dynamic=True)
    for count in (len(BOXES), 3):
        torch.testing.assert_close(compiled(heatmaps[:count], boxes[:count]), decode(heatmaps[:count], boxes[:count]))
