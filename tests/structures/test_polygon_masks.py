import math

import numpy as np
import pycocotools.mask
import pytest
import torch
import torch.nn.functional as F

from maskrcnn.structures import PolygonMasks

M = 28


def blobs(count=12, seed=0):
    """Smooth outlines of 40 points, of several sizes, two parts each: COCO's nested lists."""
    rng = np.random.default_rng(seed)
    angles = np.arange(40) / 40 * 2 * math.pi
    objects = []
    for _ in range(count):
        parts = []
        for _ in range(2):
            centre, radius = rng.uniform(60, 140, 2), rng.uniform(8, 60)
            r = radius * (1 + 0.2 * np.sin(3 * angles + rng.uniform(0, 6)))
            parts.append((centre + np.stack([np.cos(angles), np.sin(angles)], 1) * r[:, None]).reshape(-1).tolist())
        objects.append(parts)
    return objects


def boxes_around(objects, jitter=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = [torch.tensor(sum(parts, [])).reshape(-1, 2) for parts in objects]
    boxes = torch.stack([torch.cat([p.amin(0), p.amax(0)]) for p in points])
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + (torch.rand(boxes.shape, generator=generator) - 0.5) * 2 * jitter * side


def crop_by_coco(parts, box):
    x1, y1, x2, y2 = box
    scaled = [((np.reshape(p, (-1, 2)) - [x1, y1]) * [M / (x2 - x1), M / (y2 - y1)]).flatten().tolist() for p in parts]
    return torch.from_numpy(pycocotools.mask.decode(pycocotools.mask.merge(pycocotools.mask.frPyObjects(scaled, M, M))))


def test_crop_agrees_with_cocos_rasteriser_away_from_the_outline():
    objects = blobs()
    boxes = boxes_around(objects)
    ours = PolygonMasks.from_polygons(objects).crop(torch.arange(12), boxes, M)
    coco = torch.stack([crop_by_coco(p, b) for p, b in zip(objects, boxes.tolist(), strict=True)]).float()
    assert ours.dtype == torch.float32
    iou = torch.minimum(ours, coco).sum((1, 2)) / torch.maximum(ours, coco).sum((1, 2))
    assert iou.min() > 0.9
    # COCO's rasteriser rounds: where a cell's neighbours all agree, it must agree with ours.
    inside = -F.max_pool2d(-coco[:, None], 3, stride=1, padding=1)[:, 0]
    outside = F.max_pool2d(coco[:, None], 3, stride=1, padding=1)[:, 0]
    sure = inside == outside
    assert sure.float().mean() > 0.7
    assert torch.equal(ours[sure], coco[sure])


def test_crop_follows_resize_and_hflip():
    objects = blobs()
    boxes, index = boxes_around(objects), torch.arange(12)
    masks = PolygonMasks.from_polygons(objects)
    straight = masks.crop(index, boxes, M)
    resized = masks.resize(1.5, 0.4).crop(index, boxes * torch.tensor([0.4, 1.5, 0.4, 1.5]), M)
    assert (straight != resized).float().mean() < 1e-3  # rounding
    mirrored = masks.hflip(200).crop(
        index, torch.stack([200 - boxes[:, 2], boxes[:, 1], 200 - boxes[:, 0], boxes[:, 3]], 1), M
    )
    assert (straight != mirrored.flip(2)).float().mean() < 1e-3


def test_sample_at_cell_centres_is_crop():
    objects = blobs()
    boxes = boxes_around(objects)
    masks, index = PolygonMasks.from_polygons(objects), torch.tensor([3, 3, 7])
    centres = (torch.arange(M) + 0.5) / M
    x1, y1, x2, y2 = boxes[index][:, :, None].unbind(1)
    x, y = x1 + centres * (x2 - x1), y1 + centres * (y2 - y1)
    points = torch.stack([x[:, None, :].expand(3, M, M), y[:, :, None].expand(3, M, M)], dim=-1)
    sampled = masks.sample(index, points.flatten(1, 2)).view(3, M, M)
    assert (sampled != masks.crop(index, boxes[index], M)).float().mean() < 1e-3


def test_to_rle_is_cocos():
    objects = blobs(3)
    expected = [pycocotools.mask.merge(pycocotools.mask.frPyObjects(parts, 200, 210)) for parts in objects]
    rles = PolygonMasks.from_polygons([*objects, []]).to_rle((200, 210))
    bitmaps = pycocotools.mask.decode(rles)
    for i, rle in enumerate(expected):
        difference = bitmaps[:, :, i] != pycocotools.mask.decode(rle)
        assert difference.mean() < 1e-4  # points are float32 here
    assert bitmaps.shape == (200, 210, 4)
    assert not bitmaps[:, :, 3].any()


def test_indexing_repacks():
    objects = [blobs(1, seed=g)[0][: g % 3] for g in range(6)]  # 0, 1, 2, 0, 1, 2 parts
    masks = PolygonMasks.from_polygons(objects)
    part = masks[torch.tensor([5, 0, 4])]
    again = PolygonMasks.from_polygons([objects[5], objects[0], objects[4]])
    assert torch.equal(part.points, again.points)
    assert torch.equal(part.ring_offsets, again.ring_offsets)
    assert torch.equal(part.object_offsets, again.object_offsets)
    assert len(masks[masks.object_offsets.diff() > 0]) == 4
    assert len(masks[2]) == 1


def test_nothing():
    masks = PolygonMasks.from_polygons([])
    none = torch.zeros(0, dtype=torch.int64)
    assert len(masks) == len(masks[none]) == len(masks.hflip(5).resize(2, 3).to("cpu")) == 0
    assert masks.crop(none, torch.zeros(0, 4), M).shape == (0, M, M)
    assert masks.sample(none, torch.zeros(0, 9, 2)).shape == (0, 9)
    assert masks.to_rle((5, 5)) == []


@pytest.mark.parametrize("ring", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], []], ids=["two points", "odd", "empty"])
def test_rings_that_are_no_polygon_name_the_mask(ring):
    good = [0, 0, 1, 0, 1, 1]
    with pytest.raises(ValueError, match=f"mask 1: a polygon of {len(ring)} values"):
        PolygonMasks.from_polygons([[good, good], [good, ring], [good]])
