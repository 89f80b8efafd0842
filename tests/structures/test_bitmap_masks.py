import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from maskrcnn.structures import BitmapMasks

SIZE = (60, 80)


def random_bitmaps(count=10, seed=0):
    """Blobs with holes and several parts, noise, one empty and one full: bool (G, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(count, 1, 7, 7, generator=generator), size=SIZE, mode="bicubic")[:, 0] > 0.55
    noise = torch.rand(2, *SIZE, generator=generator) > 0.5
    return torch.cat([smooth, noise, torch.zeros(1, *SIZE), torch.ones(1, *SIZE)]).bool()


def encode(bitmaps):
    return pycocotools.mask.encode(np.asfortranarray(bitmaps.numpy().astype(np.uint8).transpose(1, 2, 0)))


def random_boxes(count, seed=1):
    """Within the image, over its border, and around everything."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([70.0, 50.0]) - 8
    return torch.cat([corner, corner + 3 + torch.rand(count, 2, generator=generator) * 70], dim=1)


def cover_by_supersampling(bitmaps, index, boxes, m, samples, to_source):
    """Look at samples x samples places of each cell; `to_source` maps their x and y to the bitmaps' frame."""
    covered = torch.zeros(len(index), m, m)
    steps = (torch.arange(m * samples) + 0.5) / (m * samples)
    for r, (g, (x1, y1, x2, y2)) in enumerate(zip(index.tolist(), boxes.double().tolist(), strict=True)):
        x, y = to_source(x1 + steps.double() * (x2 - x1), y1 + steps.double() * (y2 - y1))
        column, row = x.floor().long(), y.floor().long()
        within = ((row >= 0) & (row < SIZE[0]))[:, None] & ((column >= 0) & (column < SIZE[1]))
        values = bitmaps[g][row.clamp(0, SIZE[0] - 1)][:, column.clamp(0, SIZE[1] - 1)] & within
        covered[r] = F.avg_pool2d(values[None].float(), samples)[0]
    return covered


# The way to the frame, as a user takes it, and the way back to the source, written down independently.
FRAMES = {
    "as it is": (lambda m: m, lambda x, y: (x, y)),
    "mirrored": (lambda m: m.hflip(80), lambda x, y: (80 - x, y)),
    "larger": (lambda m: m.resize(2.5, 1.7), lambda x, y: (x / 1.7, y / 2.5)),
    "smaller, mirrored": (lambda m: m.resize(0.5, 0.25).hflip(20), lambda x, y: ((20 - x) * 4, y * 2)),
    "mirrored, larger, mirrored": (lambda m: m.hflip(80).resize(3, 3).hflip(240), lambda x, y: (x / 3, y / 3)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_crop_covers_at_least_half_of_a_cell(name):
    change, to_source = FRAMES[name]
    bitmaps = random_bitmaps()
    index = torch.randint(len(bitmaps), (24,), generator=torch.Generator().manual_seed(2))
    boxes = random_boxes(24)
    if name == "smaller, mirrored":
        boxes = boxes * torch.tensor([0.25, 0.5, 0.25, 0.5])
    covered = cover_by_supersampling(bitmaps, index, boxes, 14, 40, to_source)
    crops = change(BitmapMasks.from_rle(encode(bitmaps))).crop(index, boxes, 14)
    clear = (covered - 0.5).abs() > 0.05  # 40 samples along a side miss an outline by up to 1/40 of a cell, twice
    assert crops.dtype == torch.float32
    assert clear.float().mean() > 0.8
    assert torch.equal(crops[clear], (covered >= 0.5).float()[clear])


def test_crop_on_the_pixel_grid_is_the_bitmap():
    bitmaps = random_bitmaps()
    index = torch.arange(len(bitmaps))
    masks = BitmapMasks.from_bitmaps(bitmaps)
    box = torch.tensor([[8.0, 4.0, 36.0, 32.0]]).expand(len(bitmaps), 4)
    assert torch.equal(masks.crop(index, box, 28), bitmaps[:, 4:32, 8:36].float())
    # Two pixels a cell: halves count, whatever the rounding.
    box = torch.tensor([[8.0, 4.0, 36.0, 18.0]]).expand(len(bitmaps), 4)
    pairs = bitmaps[:, 4:18, 8:36].unflatten(2, (14, 2)).any(dim=3)
    assert torch.equal(masks.crop(index, box, 14), pairs.float())
    assert torch.equal(masks.resize(1.7, 1.7).crop(index, box * 1.7, 14), pairs.float())


def test_cells_of_one_source_pixel_repeat_it():
    bitmaps = random_bitmaps()[:1]
    crops = BitmapMasks.from_bitmaps(bitmaps).crop(torch.tensor([0]), torch.tensor([[20.0, 20.0, 27.0, 27.0]]), 28)
    repeated = bitmaps[0, 20:27, 20:27].repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(crops[0], repeated.float())


def test_sample_is_bilinear_in_the_source():
    bitmaps = random_bitmaps()
    index = torch.arange(len(bitmaps))
    points = (
        torch.rand(len(bitmaps), 30, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([84.0, 64.0]) - 2
    )
    grid = points / torch.tensor([80.0, 60.0]) * 2 - 1
    expected = F.grid_sample(bitmaps[:, None].float(), grid[:, None], align_corners=False)[:, 0, 0]
    masks = BitmapMasks.from_bitmaps(bitmaps)
    torch.testing.assert_close(masks.sample(index, points), expected, atol=1e-4, rtol=0)
    mirrored = torch.stack([80 - points[..., 0], points[..., 1]], dim=-1)
    torch.testing.assert_close(masks.hflip(80).sample(index, mirrored), expected, atol=1e-4, rtol=0)
    larger = points * torch.tensor([1.5, 2.5])
    torch.testing.assert_close(masks.resize(2.5, 1.5).sample(index, larger), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("counts", ["bytes", "text", "list"])
def test_rle_there_and_back(counts):
    bitmaps = random_bitmaps()
    rles = encode(bitmaps)
    texts = [{"size": r["size"], "counts": r["counts"].decode()} for r in rles]
    if counts == "text":
        rles = texts
    if counts == "list":
        rles = []
        for bitmap in bitmaps:
            flat = bitmap.mT.flatten().tolist()
            changes = [0, *(i for i in range(len(flat)) if flat[i] != (flat[i - 1] if i else False)), len(flat)]
            rles.append({"size": [*SIZE], "counts": np.diff(changes).tolist()})
    assert BitmapMasks.from_rle(rles).to_rle(SIZE) == texts
    assert BitmapMasks.from_bitmaps(list(bitmaps.numpy())).to_rle(SIZE) == texts


def test_to_rle_in_another_frame():
    bitmaps = random_bitmaps()
    masks = BitmapMasks.from_bitmaps(bitmaps)
    flipped = pycocotools.mask.decode(masks.hflip(80).to_rle(SIZE))
    assert np.array_equal(flipped.transpose(2, 0, 1), bitmaps.flip(2).numpy())
    doubled = pycocotools.mask.decode(masks.resize(2, 2).to_rle((120, 160)))
    assert np.array_equal(doubled.transpose(2, 0, 1), bitmaps.repeat_interleave(2, 1).repeat_interleave(2, 2).numpy())
    halved = pycocotools.mask.decode(masks.resize(0.5, 0.5).hflip(40).to_rle((30, 40)))
    expected = (F.avg_pool2d(bitmaps.float(), 2) >= 0.5).flip(2)
    assert np.array_equal(halved.transpose(2, 0, 1), expected.numpy())
    cut = pycocotools.mask.decode(masks.to_rle((20, 30)))
    assert np.array_equal(cut.transpose(2, 0, 1), bitmaps[:, :20, :30].numpy())


def test_indexing_repacks():
    bitmaps = random_bitmaps()
    masks = BitmapMasks.from_bitmaps(bitmaps).resize(2, 2)
    rows = torch.tensor([11, 12, 0, 3, 3])
    part = masks[rows].resize(0.5, 0.5)
    assert part.to_rle(SIZE) == BitmapMasks.from_bitmaps(bitmaps[rows]).to_rle(SIZE)
    assert len(masks[2]) == 1
    assert len(masks[torch.zeros(14, dtype=torch.bool)]) == 0


def test_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    for masks in (
        BitmapMasks.from_rle([]),
        BitmapMasks.from_bitmaps(np.zeros((0, 5, 5))),
        BitmapMasks.from_bitmaps([]),
    ):
        assert len(masks) == len(masks[none]) == len(masks.hflip(5).resize(2, 3).to("cpu")) == 0
        assert masks.crop(none, torch.zeros(0, 4), 28).shape == (0, 28, 28)
        assert masks.sample(none, torch.zeros(0, 9, 2)).shape == (0, 9)
        assert masks.to_rle((5, 5)) == []


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 9, 9, 9), (90, 70, 99, 99), (float("nan"), 0, 5, 5)], ids=str)
def test_boxes_with_nothing_in_them(box):
    masks = BitmapMasks.from_bitmaps(np.ones((1, *SIZE)))
    crops = masks.crop(torch.tensor([0, 0]), torch.tensor([box, (0, 0, 5, 5)], dtype=torch.float32), 7)
    assert not crops[0].any()
    assert crops[1].all()


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operator returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_flatten(out)[0]:
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes())
        return out


def test_many_objects_never_become_full_size_bitmaps():
    """131 nuclei in a frame of 520 x 696, as in the data set `nuclei`: 47 MB as bitmaps."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:520, :696]
    rles = []
    for cx, cy, r in zip(rng.uniform(20, 676, 131), rng.uniform(20, 500, 131), rng.uniform(4, 14, 131), strict=True):
        bitmap = (x - cx) ** 2 + (y - cy) ** 2 < r**2
        rles.append(pycocotools.mask.encode(np.asfortranarray(bitmap.astype(np.uint8))))
    boxes = torch.tensor(np.array([pycocotools.mask.toBbox(r) for r in rles]), dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    one_frame = 520 * 696
    with LargestTensor() as tensors:
        masks = BitmapMasks.from_rle(rles).resize(1.5, 1.5).hflip(1044)
    tracemalloc.start()  # what numpy takes
    try:
        BitmapMasks.from_rle(rles)
        assert tracemalloc.get_traced_memory()[1] < 2 * one_frame
    finally:
        tracemalloc.stop()
    assert tensors.largest < one_frame / 4
    assert masks.runs.nbytes + masks.offsets.nbytes < one_frame / 4
    frame = boxes * 1.5
    frame = torch.stack([1044 - frame[:, 2], frame[:, 1], 1044 - frame[:, 0], frame[:, 3]], dim=1)
    with LargestTensor() as tensors:
        crops = masks.crop(torch.arange(131), frame, 28)
    assert tensors.largest < 8 * 131 * 30 * 30 + 1  # the grids themselves, float64
    disk = ((torch.arange(28) + 0.5 - 14) ** 2)[:, None] + (torch.arange(28) + 0.5 - 14) ** 2 < 14**2
    assert (crops == disk).float().mean() > 0.93


def test_nuclei_there_and_back():
    data = os.environ.get("MASKRCNN_TEST_DATA")
    if not data or not (path := Path(data) / "nuclei/annotations/instances_val.json").is_file():
        pytest.skip("needs the sample data: MASKRCNN_TEST_DATA is not set, or has no nuclei")
    contents = json.loads(path.read_text())
    by_image = {}
    for annotation in contents["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for annotations in sorted(by_image.values(), key=len)[-5:]:
        rles = [a["segmentation"] for a in annotations]
        masks = BitmapMasks.from_rle(rles)
        assert masks.to_rle(tuple(rles[0]["size"])) == rles
        boxes = torch.tensor([a["bbox"] for a in annotations])
        boxes[:, 2:] += boxes[:, :2]
        areas = torch.stack([masks.crop(torch.tensor([i]), b.round()[None], 1).sum() for i, b in enumerate(boxes)])
        assert areas.mean() > 0.9  # a nucleus fills more than half of its box
