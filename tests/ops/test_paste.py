import math

import numpy as np
import pycocotools.mask
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from maskrcnn.ops import masks_to_rle, paste_masks, reference
from maskrcnn.ops import paste as paste_module
from maskrcnn.ops.extension import COMPILED
from maskrcnn.ops.rle import compress_counts
from ops.cuda_on_cpu import operators
from ops.implementations import IMPLEMENTATIONS, dispatched, served_by, with_threads

SIZE = (37, 53)
compiled_only = pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")


def paste_by_grid_sample(masks, boxes, size):
    """The probabilities at the pixel centres: (D, H, W)."""
    y = torch.arange(size[0], dtype=torch.float64) + 0.5
    x = torch.arange(size[1], dtype=torch.float64) + 0.5
    x1, y1, x2, y2 = boxes.double()[:, :, None].unbind(1)
    u, v = (x - x1) / (x2 - x1) * 2 - 1, (y - y1) / (y2 - y1) * 2 - 1
    shape = (len(boxes), *size)
    grid = torch.stack([u[:, None, :].expand(shape), v[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(masks[:, None].double(), grid, align_corners=False)[:, 0]


def paste_by_loops(mask, box, size, threshold):
    """One mask, pixel by pixel: a sum over all cells of values times hat functions."""
    m, (x1, y1, x2, y2) = len(mask), box
    pasted = torch.zeros(size, dtype=torch.bool)
    for i in range(size[0]):
        for j in range(size[1]):
            u, v = (j + 0.5 - x1) / (x2 - x1) * m - 0.5, (i + 0.5 - y1) / (y2 - y1) * m - 0.5
            hats = [[max(0.0, 1 - abs(p - k)) for k in range(m)] for p in (v, u)]
            value = sum(mask[a][b] * hats[0][a] * hats[1][b] for a in range(m) for b in range(m))
            pasted[i, j] = value >= threshold
    return pasted


def random_detections(count=40, m=9, frame=SIZE):
    """Some reach over the border."""
    masks = F.interpolate(torch.rand(count, 1, 4, 4), size=(m, m), mode="bilinear")[:, 0]
    sides = torch.tensor([frame[1], frame[0]])
    corner = (torch.rand(count, 2) * 1.4 - 0.2) * sides
    return masks, torch.cat([corner, corner + 0.5 + torch.rand(count, 2) ** 3 * 1.3 * sides], dim=1)


def decoded(rles):
    return torch.from_numpy(pycocotools.mask.decode(rles)).permute(2, 0, 1).bool()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    return request.param


@pytest.fixture
def paste(implementation, monkeypatch):
    return served_by(implementation, paste_masks, paste_module, monkeypatch)


def rle_by_columns(masks, boxes, size, *, threshold=0.5):
    """The way of the CUDA kernels."""
    masks, boxes = paste_module._checked(masks, boxes, size, threshold)
    runs = paste_module.runs_by_columns(operators(), masks, boxes, size, threshold)
    return [{"size": [*size], "counts": text} for text in compress_counts(*runs)]


@pytest.fixture
def to_rle(implementation, monkeypatch):
    if implementation == "CUDA source on the CPU":
        return rle_by_columns
    return served_by(implementation, masks_to_rle, paste_module, monkeypatch)


@pytest.mark.parametrize("threshold", [0.5, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paste_is_grid_sample(paste, threshold, dtype):
    masks, boxes = random_detections()
    masks, boxes = masks.to(dtype), boxes.to(dtype)
    soft = paste_by_grid_sample(masks, boxes, SIZE)
    pasted = paste(masks, boxes, SIZE, threshold=threshold)
    clear = (soft - threshold).abs() > (1e-5 if dtype == torch.float32 else 1e-10)
    assert torch.equal(pasted[clear], (soft >= threshold)[clear])
    assert clear.double().mean() > 0.999
    assert pasted.flatten(1).any(dim=1).sum() > 10  # the others are too small to reach a pixel centre, or outside


@pytest.mark.parametrize("memory_budget", [1, 50_000, 2**28])
def test_the_reference_stays_within_any_budget(memory_budget):
    masks, boxes = random_detections()
    expected = reference.paste_masks(masks, boxes, SIZE)
    assert torch.equal(reference.paste_masks(masks, boxes, SIZE, memory_budget=memory_budget), expected)
    counts, lengths = reference.paste_runs(masks, boxes, SIZE, memory_budget=memory_budget)
    rles = [{"size": SIZE, "counts": text} for text in compress_counts(counts, lengths)]
    assert torch.equal(decoded(rles), expected)


@pytest.mark.parametrize("box", [(2.3, 1.9, 9.4, 8.8), (-3.2, -2, 14.1, 20), (3.3, 4.1, 4.0, 4.9), (4, 4, 4.3, 90)])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_paste_follows_the_sum_over_cells(paste, box, m):
    mask = torch.rand(m, m, dtype=torch.float64)
    boxes = torch.tensor([box], dtype=torch.float64)
    expected = paste_by_loops(mask.tolist(), box, (11, 13), 0.4)
    assert torch.equal(paste(mask[None], boxes, (11, 13), threshold=0.4)[0], expected)


def test_agrees_with_torchvision(paste):
    """It pads the masks by a cell, enlarges the boxes alike, and cuts them to whole pixels, the last one included."""
    m, k = 14, torch.tensor([1, 2, 3, 4])  # pixels per cell
    masks = random_detections(4, m)[0]
    corner = torch.tensor([[5, 7], [4, 3], [20, 30], [9, 31]])  # the third and fourth reach over the border
    boxes = torch.cat([corner, corner + m * k[:, None]], dim=1).float()
    enlarged = boxes + torch.stack([-k, -k, k - 1, k - 1], dim=1) + 0.01  # what its cut leaves whole
    centre, sides = (enlarged[:, :2] + enlarged[:, 2:]) / 2, (enlarged[:, 2:] - enlarged[:, :2]) * m / (m + 2)
    theirs = torch.cat([centre - sides / 2, centre + sides / 2], dim=1)
    soft = paste_masks_in_image(masks[:, None], theirs, (64, 80), padding=1)[:, 0]
    clear = (soft - 0.5).abs() > 1e-5
    assert torch.equal(paste(masks, boxes, (64, 80))[clear], (soft >= 0.5)[clear])
    assert (soft >= 0.5).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("threshold", [0.5, 0.1])
@pytest.mark.parametrize("m", [9, 28])
def test_rle_is_what_pycocotools_makes_of_the_pasted_masks(implementation, paste, to_rle, threshold, m):
    masks, boxes = random_detections(m=m)
    boxes[3] = torch.tensor([-20.0, -20.0, 80.0, 80.0])
    masks[3] = 1  # the whole image
    boxes[5] = torch.tensor([-5.0, 10.0, 80.0, 20.0])  # runs that end in the last column
    boxes[7] = torch.tensor([10.0, -30.0, 20.0, 80.0])  # runs that go on from one column to the next
    masks[5] = masks[7] = 1
    boxes[9, 2:] = boxes[9, :2]
    boxes[11] = torch.tensor([-1.0, -9.0, 60.0, -0.3])  # a window that holds no pixel inside
    masks[12] = threshold  # every pixel on the edge of the decision
    boxes[12] = torch.tensor([0.0, 0.0, 53.0, 37.0])
    boxes[13] = torch.tensor([20.2, -9.0, 90.0, 3.3])  # from above: columns begin inside, and stop soon
    if implementation == "reference":
        masks[12] = 1  # it has no one order of the sums
    rles = to_rle(masks, boxes, SIZE, threshold=threshold)
    pasted = paste(masks, boxes, SIZE, threshold=threshold)
    assert pasted[3].all()
    for rle, bitmap in zip(rles, pasted, strict=True):
        encoded = pycocotools.mask.encode(np.asfortranarray(bitmap.numpy().astype(np.uint8)))
        assert rle == {"size": [*SIZE], "counts": encoded["counts"].decode()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rle_of_a_large_image(to_rle, dtype):
    """Many pixels between two cells, most of which are decided without a look at each."""
    masks, boxes = random_detections(12, m=28, frame=(480, 640))
    masks = masks.to(dtype)
    boxes[0] = torch.tensor([0.0, 0.0, 640.0, 480.0])
    expected = paste_by_grid_sample(masks, boxes, (480, 640))
    clear = (expected - 0.5).abs() > 1e-5
    ours = decoded(to_rle(masks, boxes, (480, 640)))
    assert torch.equal(ours[clear], (expected >= 0.5)[clear])
    assert 0.01 < ours.double().mean() < 0.9


def test_by_hand(paste):
    """Four cells of a 4 x 4 box, each one pixel large, and the same box moved by half a pixel."""
    mask = torch.tensor([[[0.9, 0.2, 0.2, 0.2]] + [[0.2] * 4] * 3])
    boxes = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
    pasted = paste(mask, boxes, (6, 6))
    assert pasted.nonzero().tolist() == [[0, 1, 1]]
    halfway = boxes + torch.tensor([0.5, 0.0, 0.5, 0.0])  # pixel 1: 0.9 / 2; pixel 2: (0.9 + 0.2) / 2
    assert paste(mask, halfway, (6, 6)).nonzero().tolist() == [[0, 1, 2]]
    assert paste(mask, halfway, (6, 6), threshold=0.4).nonzero().tolist() == [[0, 1, 1], [0, 1, 2]]


@pytest.mark.parametrize(
    "box",
    [
        (5, 5, 5, 9),
        (5, 5, 5, 5),
        (9, 9, 2, 2),
        (99, 99, 120, 120),
        (-50, 3, -10, 9),
        (0, 0, math.inf, 9),
        (math.nan, 0, 9, 9),
        (-3e38, 0, 3e38, 9),
        (1e30, 1e30, 2e30, 2e30),
        (5, 5, 5 + 1e-6, 9),
    ],
    ids=[
        "no width",
        "a point",
        "inverted",
        "beyond the end",
        "before the start",
        "infinite",
        "nan",
        "of infinite width",
        "far away",
        "hardly any width",
    ],
)
def test_boxes_without_a_pixel(paste, to_rle, box):
    boxes = torch.tensor([(0.0, 0.0, 10.0, 10.0), box])
    pasted = paste(torch.ones(2, 7, 7), boxes, SIZE)
    assert pasted[0].sum() == 100
    assert not pasted[1].any()
    rles = to_rle(torch.ones(2, 7, 7), boxes, SIZE)
    assert [int(pycocotools.mask.area(rle)) for rle in rles] == [100, 0]


def test_a_huge_box_shows_one_place_of_its_mask(paste, to_rle):
    boxes = torch.tensor([[-1e30, -1e30, 1e30, 1e30]])
    masks = torch.rand(1, 8, 8)
    masks[0, 3:5, 3:5] = 0.9  # the middle
    assert paste(masks, boxes, SIZE).all()
    assert pycocotools.mask.area(to_rle(masks, boxes, SIZE)[0]) == SIZE[0] * SIZE[1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_cells_that_are_no_number_stay_by_themselves(paste, value):
    masks = torch.full((2, 8, 8), 0.9)
    masks[0, 0, 0] = value
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).expand(2, 4)
    pasted = paste(masks, boxes, (8, 8))
    assert pasted[1].all()


def test_no_detections_and_no_pixels(paste, to_rle):
    none, no_boxes = torch.zeros(0, 28, 28), torch.zeros(0, 4)
    assert paste(none, no_boxes, SIZE).shape == (0, *SIZE)
    assert to_rle(none, no_boxes, SIZE) == []
    masks, boxes = random_detections(3)
    assert paste(masks, boxes, (0, 5)).shape == (3, 0, 5)
    assert paste(masks, boxes, (5, 0)).shape == (3, 5, 0)
    assert [rle["counts"] for rle in to_rle(masks, boxes, (0, 5))] == ["0"] * 3
    assert paste(torch.ones(1, 1, 1), torch.tensor([[0.0, 0, 1, 1]]), (1, 1)).tolist() == [[[True]]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_worked_out_in_float32(paste, dtype):
    masks, boxes = random_detections()
    assert torch.equal(paste(masks.to(dtype), boxes, SIZE), paste(masks.to(dtype).float(), boxes, SIZE))


def test_boxes_of_another_precision_than_the_masks(paste):
    masks, boxes = random_detections()
    expected = paste(masks, boxes, SIZE)
    assert torch.equal(paste(masks, boxes.double(), SIZE), expected)
    assert (paste(masks.double(), boxes, SIZE) != expected).sum() < 5  # pixels on the edge


def test_other_layouts_give_the_same(paste):
    masks, boxes = random_detections()
    expected = paste(masks, boxes, SIZE)
    assert torch.equal(paste(masks.mT.contiguous().mT, boxes.T.contiguous().T, SIZE), expected)
    assert torch.equal(paste(masks[::2], boxes[::2], SIZE), expected[::2])


def test_there_is_no_gradient(paste):
    masks, boxes = random_detections(3)
    assert not paste(masks.requires_grad_(), boxes.requires_grad_(), SIZE).requires_grad


def test_the_number_of_threads_changes_nothing():
    masks, boxes = random_detections(frame=(200, 300))
    pasted = with_threads(lambda: paste_masks(masks, boxes, (200, 300)))
    assert all(torch.equal(pasted[0], other) for other in pasted)
    one = with_threads(lambda: paste_masks(masks[:1], boxes[:1], (2000, 300)))
    assert all(torch.equal(one[0], other) for other in one)
    rles = with_threads(lambda: masks_to_rle(masks, boxes, (200, 300)))
    assert all(rles[0] == other for other in rles)


@compiled_only
def test_no_loop_over_detections():
    few, many = random_detections(2), random_detections(200)
    assert dispatched(lambda: paste_masks(*many, SIZE)) == dispatched(lambda: paste_masks(*few, SIZE)) <= 3
    assert dispatched(lambda: masks_to_rle(*many, SIZE)) == dispatched(lambda: masks_to_rle(*few, SIZE)) <= 12


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("masks", {"masks": torch.zeros(3, 7, 8)}),
        ("masks", {"masks": torch.zeros(3, 1, 7, 7)}),
        ("masks", {"masks": torch.zeros(3, 7, 7, dtype=torch.uint8)}),
        ("boxes", {"boxes": torch.zeros(4, 4)}),
        ("boxes", {"boxes": torch.zeros(3, 5)}),
        ("boxes", {"boxes": torch.zeros(3, 4, dtype=torch.float16)}),
        ("boxes", {"boxes": torch.zeros(3, 4, device="meta")}),
        ("size", {"size": (-1, 7)}),
        ("threshold", {"threshold": 0.0}),
        ("threshold", {"threshold": math.nan}),
    ],
)
def test_errors_name_the_argument(argument, changes):
    good = {"masks": torch.zeros(3, 7, 7), "boxes": torch.zeros(3, 4), "size": SIZE, "threshold": 0.5}
    wrong = good | changes
    with pytest.raises(ValueError, match=f"^{argument}: "):
        paste_masks(**wrong)
    with pytest.raises(ValueError, match=f"^{argument}: "):
        masks_to_rle(**wrong)
    if COMPILED and changes.get("boxes", wrong["masks"]).device.type == "cpu":  # whoever calls the operator itself
        for namespace in (torch.ops.maskrcnn, operators()):
            with pytest.raises(ValueError, match=f"^{argument}: "):
                namespace.paste_masks(wrong["masks"], wrong["boxes"], *wrong["size"], wrong["threshold"])


@compiled_only
def test_starts_are_written_where_there_is_room_alone():
    masks, boxes = torch.ones(2, 4, 4), torch.tensor([[0.0, 0, 5, 5], [1, 1, 3, 3]])
    stops = torch.tensor([[-9, 2**40, 3], [-(2**60), 1, 2]])
    starts = operators().paste_run_starts(masks, boxes, 6, 3, 0.5, stops, 4)
    assert starts.shape == (4,)
    with pytest.raises(ValueError, match="^stops: "):
        operators().paste_run_starts(masks, boxes, 6, 3, 0.5, stops[:1], 4)
    with pytest.raises(ValueError, match="^total: "):
        operators().paste_run_starts(masks, boxes, 6, 3, 0.5, stops, -1)


@compiled_only
def test_opcheck():
    masks, boxes = random_detections(5)
    for count in (5, 0):
        torch.library.opcheck(torch.ops.maskrcnn.paste_masks.default, (masks[:count], boxes[:count], 8, 9, 0.5))
        torch.library.opcheck(torch.ops.maskrcnn.paste_runs.default, (masks[:count], boxes[:count], 8, 9, 0.5))


@compiled_only
def test_in_a_compiled_model():
    masks, boxes = random_detections()

    def work(masks, boxes):
        return paste_masks(masks.sigmoid(), boxes, SIZE, threshold=0.6).sum(dim=(1, 2))

    compiled = torch.compile(work, backend="aot_eager", fullgraph=True, dynamic=True)
    for count in (10, 4):
        assert torch.equal(compiled(masks[:count], boxes[:count]), work(masks[:count], boxes[:count]))
