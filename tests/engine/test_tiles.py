"""Tiles, with a model that finds exactly what is in an image: every object once, wherever it lies."""

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.engine.tiles import merge, predict_tiled, tile_grid
from maskrcnn.structures import Detections

TILE, OVERLAP = 100, 30
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))  # by label


class ColourFinder:
    """Finds the connected regions of each colour, also those that the image's border cuts; not those that are small
    beside the image, as a network that resizes every image does. Its scores are noise."""

    def __init__(self, *, masks: bool = True, least: float = 0.04) -> None:
        self.masks, self.least, self.rng = masks, least, np.random.default_rng(0)
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, images: list[np.ndarray]) -> list[Detections]:
        return [self.find(image) for image in images]

    def find(self, image: np.ndarray) -> Detections:
        self.sizes.append(image.shape[:2])
        boxes, labels, masks = [], [], []
        for label, colour in enumerate(COLOURS):
            count, regions, stats, _ = cv2.connectedComponentsWithStats((image == colour).all(axis=2).astype(np.uint8))
            for i in range(1, count):
                x, y, w, h = stats[i, :4].tolist()
                if max(w, h) < self.least * max(image.shape):
                    continue
                cut = (regions[y : y + h, x : x + w] == i).astype(np.float32)
                masks.append(cv2.resize(cut, (28, 28), interpolation=cv2.INTER_LINEAR))
                boxes.append([x, y, x + w, y + h])
                labels.append(label)
        return Detections(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.from_numpy(self.rng.uniform(0.5, 1, len(boxes)).astype(np.float32)),
            labels=torch.tensor(labels, dtype=torch.int64),
            size=image.shape[:2],
            masks=torch.from_numpy(np.array(masks, np.float32).reshape(-1, 28, 28)) if self.masks else None,
        )


def planted(size: tuple[int, int], count: int, sides: tuple[int, int], seed: int) -> tuple[np.ndarray, set]:
    """Ellipses that do not touch each other, and (label, x1, y1, x2, y2) of each."""
    rng = np.random.default_rng(seed)
    image, free = np.full((*size, 3), 90, np.uint8), np.ones(size, bool)
    objects = set()
    for _ in range(40 * count):
        h, w = rng.integers(*sides, 2, endpoint=True)
        y, x = (int(rng.integers(0, length - side + 1)) for length, side in zip(size, (h, w), strict=True))
        around = (slice(max(0, y - 2), y + h + 2), slice(max(0, x - 2), x + w + 2))
        if len(objects) == count or not free[around].all():
            continue
        free[around] = False
        rows, columns = np.ogrid[:h, :w]
        inside = ((rows + 0.5) * 2 / h - 1) ** 2 + ((columns + 0.5) * 2 / w - 1) ** 2 <= 1
        label = int(rng.integers(len(COLOURS)))
        image[y : y + h, x : x + w][inside] = COLOURS[label]
        ys, xs = np.nonzero(inside)
        objects.add((label, x + int(xs.min()), y + int(ys.min()), x + int(xs.max()) + 1, y + int(ys.max()) + 1))
    return image, objects


def rows_of(found: Detections) -> list[tuple[int, ...]]:
    return [(label, *map(int, box)) for label, box in zip(found.labels.tolist(), found.boxes.tolist(), strict=True)]


@pytest.mark.parametrize("size", [(400, 500), (101, 730), (100, 100), (40, 260), (230, 60)])
@pytest.mark.parametrize("overlap", [0, 30, 99])
def test_the_grid_covers_the_image_evenly(size: tuple[int, int], overlap: int) -> None:
    windows = tile_grid(size, TILE, overlap)
    covered = np.zeros(size, int)
    for x1, y1, x2, y2 in windows.tolist():
        assert (y2 - y1, x2 - x1) == (min(TILE, size[0]), min(TILE, size[1]))
        covered[y1:y2, x1:x2] += 1
    assert (covered > 0).all()
    for first, last in ((0, 2), (1, 3)):
        sides = sorted({(row[first], row[last]) for row in windows.tolist()})
        assert all(a[1] - b[0] >= overlap for a, b in zip(sides, sides[1:], strict=False))
        steps = {b[0] - a[0] for a, b in zip(sides, sides[1:], strict=False)}
        assert not steps or max(steps) - min(steps) <= 1


def test_the_fewest_tiles_that_do() -> None:
    assert tile_grid((100, 170), 100, 30).tolist() == [[0, 0, 100, 100], [70, 0, 170, 100]]
    assert len(tile_grid((100, 171), 100, 30)) == 3 and len(tile_grid((70, 100), 100, 30)) == 1


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes"])
@pytest.mark.parametrize("seed", range(6))
def test_every_small_object_is_found_once(seed: int, masks: bool) -> None:
    image, objects = planted((420, 510), 70, (8, 28), seed)
    assert len(objects) > 50
    found = predict_tiled(ColourFinder(masks=masks), image, TILE, OVERLAP)
    assert sorted(rows_of(found)) == sorted(objects)
    assert found.size == (420, 510) and (found.scores.diff() <= 0).all()
    assert (found.masks is not None) == masks


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes"])
@pytest.mark.parametrize("seed", range(4))
def test_large_objects_are_found_in_the_image_as_a_whole(seed: int, masks: bool) -> None:
    image, objects = planted((420, 510), 6, (60, 190), seed)
    image_small, small = planted((420, 510), 60, (8, 28), seed + 100)
    free = cv2.dilate((image != 90).any(axis=2).astype(np.uint8), np.ones((7, 7))) == 0
    for row in sorted(small):  # where there is room between the large ones
        _, x1, y1, x2, y2 = row
        if free[y1:y2, x1:x2].all():
            image[y1:y2, x1:x2] = image_small[y1:y2, x1:x2]
            objects.add(row)
    found = predict_tiled(ColourFinder(masks=masks), image, TILE, OVERLAP)
    assert sorted(rows_of(found)) == sorted(objects)


@pytest.mark.parametrize("x", range(60, 102, 2))
def test_an_object_at_any_place_of_a_seam(x: int) -> None:
    """The seam of tiles 0..100 and 70..170; a neighbour of the same class shares some of its box, none of its mask."""
    image = np.full((100, 170, 3), 90, np.uint8)
    rows, columns = np.ogrid[:26, :26]
    upper, lower = rows + columns < 18, rows + columns > 28
    for part in (upper, lower):
        image[40:66, x : x + 26][part] = COLOURS[1]
    found = predict_tiled(ColourFinder(), image, TILE, OVERLAP)
    assert sorted(rows_of(found)) == [(1, x, 40, x + 18, 58), (1, x + 4, 44, x + 26, 66)]


def test_a_part_goes_even_if_its_score_is_higher() -> None:
    boxes = torch.tensor([[80.0, 10, 100, 30], [80, 10, 108, 30]])
    windows = torch.tensor([[0, 0, 100, 100], [70, 0, 170, 100]])
    views = [
        Detections(boxes[i : i + 1], torch.tensor([score]), torch.tensor([0]), (100, 170), torch.ones(1, 28, 28))
        for i, score in enumerate((0.99, 0.6))
    ]
    assert merge(views, windows).boxes.tolist() == [[80, 10, 108, 30]]


def test_a_part_stays_where_the_rest_is_hardly_believed() -> None:
    boxes = torch.tensor([[80.0, 10, 100, 30], [80, 10, 125, 30]])
    windows = torch.tensor([[0, 0, 100, 100], [70, 0, 170, 100]])
    views = [
        Detections(boxes[i : i + 1], torch.tensor([score]), torch.tensor([0]), (100, 170), torch.ones(1, 28, 28))
        for i, score in enumerate((0.9, 0.1))
    ]
    assert merge(views, windows).boxes.tolist() == [[80, 10, 100, 30]]


def test_what_the_model_found_in_one_view_is_not_judged_again() -> None:
    boxes = torch.tensor([[20.0, 20, 60, 60], [22, 20, 62, 60]])
    view = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), (100, 100), torch.ones(2, 28, 28))
    assert len(merge([view], torch.tensor([[0, 0, 100, 100]]))) == 2


def test_an_object_that_is_whole_nowhere_stays() -> None:
    image = np.full((100, 300, 3), 90, np.uint8)
    image[48:52, 20:280] = COLOURS[0]
    found = predict_tiled(ColourFinder(least=1.1), image, TILE, OVERLAP)  # nothing is large enough to be found
    assert len(found) == 0

    class OnlyTiles(ColourFinder):
        def find(self, image: np.ndarray) -> Detections:
            return super().find(image) if image.shape[1] == TILE else super().find(image)[:0]

    parts = predict_tiled(OnlyTiles(), image, TILE, OVERLAP)
    covered = np.zeros(300, bool)
    for x1, _, x2, _ in parts.boxes.int().tolist():
        covered[x1:x2] = True
    assert covered[20:280].all()


def test_classes_do_not_compete_and_keypoints_go_along() -> None:
    windows = torch.tensor([[0, 0, 100, 100], [70, 0, 170, 100]])
    box = torch.tensor([[75.0, 20, 95, 40]])
    views = [
        Detections(box, torch.tensor([0.9 - 0.1 * i]), torch.tensor([i]), (100, 170), torch.ones(1, 28, 28))
        for i in range(2)
    ]
    assert merge(views, windows).labels.tolist() == [0, 1]

    def detect(images: list[np.ndarray]) -> list[Detections]:
        row = Detections(box - 70, torch.ones(1), torch.tensor([0]), (100, 100), keypoints=torch.ones(1, 17, 3))
        return [row[:0], row, row[:0]]

    found = predict_tiled(detect, np.zeros((100, 170, 3), np.uint8), TILE, OVERLAP)
    assert found.keypoints[0, 0].tolist() == [71, 1, 1] and found.boxes.tolist() == [[75, -50, 95, -30]]


def test_a_small_image_is_one_tile() -> None:
    image, objects = planted((90, 80), 5, (8, 28), 0)
    finder = ColourFinder()
    assert sorted(rows_of(predict_tiled(finder, image, TILE, OVERLAP))) == sorted(objects)
    assert finder.sizes == [(90, 80)]


def test_nothing_anywhere() -> None:
    for masks in (True, False):
        found = predict_tiled(ColourFinder(masks=masks), np.zeros((150, 260, 3), np.uint8), TILE, OVERLAP)
        assert len(found) == 0 and found.size == (150, 260)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (100, 100), (100, -1)])
def test_wrong_tiles_are_errors(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"tiles of {tile} pixels with an overlap of {overlap}"):
        tile_grid((200, 200), tile, overlap)
