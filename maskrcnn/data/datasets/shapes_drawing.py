"""One image of the data set `shapes`: figures thrown over a background, and which pixel is whose.

Everything that an annotation says comes from one map, `Scene.owner`: the object that painted a pixel last. Outlines are
rounded to 1/100 px and rasterised by COCO's own routine, so that the last bits of a machine's sines change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.data.datasets.shapes_figures import CATEGORIES, Array, Category, Figure, Random, colour, mix

SHORT_SIDE, LONG_SIDE = (192, 256), 320  # pixels
SIZES = (22, 250)  # of a figure, in pixels
MIN_VISIBLE = 0.5  # a figure that would leave less than this of an earlier one is not drawn, so none is all but hidden
CROWD_SHARE, EMPTY_SHARE = 0.08, 0.015  # of the images
SHADOW = 14  # pixels that a shadow reaches at most


@dataclass(frozen=True)
class Placed:
    """One object of a scene: a figure, or a crowd of tiny ones.

    Attributes:
        drawn: pixels that it painted, before later objects came over it.
        outline: ring (n, 2) of a figure that is a single ring without holes, else None.
        keypoints: (17, 2) in image coordinates, or None.
    """

    category: Category
    drawn: int
    crowd: bool = False
    outline: Array | None = None
    keypoints: Array | None = None


@dataclass
class Scene:
    """A picture in the making.

    Attributes:
        canvas: float32 (H, W, 3) RGB, 0..255.
        owner: int16 (H, W), index into `objects`, -1 where the background shows.
        stuff: uint8 (H, W), index into `STUFF`.
        light: (2,) direction in which shadows fall.
    """

    canvas: Array
    owner: Array
    stuff: Array
    light: Array
    objects: list[Placed] = field(default_factory=list)


def noise(rng: Random, size: tuple[int, int], rows: float, columns: float) -> Array:
    """Smooth noise (h, w) of about 0..1, with that many pixels per grain."""
    grid = rng.random((int(size[0] / rows) + 2, int(size[1] / columns) + 2), dtype=np.float32)
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_LINEAR)


def sky(rng: Random, y: Array, x: Array) -> Array:
    base = colour(rng.uniform(195, 225), rng.uniform(0.2, 0.5), rng.uniform(0.6, 0.95))
    clouds = np.clip(2 * noise(rng, y.shape, 40, 70) - 0.8, 0, 1)
    return mix(base, np.full(3, 235, np.float32), clouds.ravel())


def grass(rng: Random, y: Array, x: Array) -> Array:
    hue, value = rng.uniform(70, 120), rng.uniform(0.3, 0.6)
    return mix(colour(hue, 0.4, value), colour(hue - 20, 0.35, value + 0.2), noise(rng, y.shape, 9, 2).ravel())


def sand(rng: Random, y: Array, x: Array) -> Array:
    hue, value = rng.uniform(25, 45), rng.uniform(0.5, 0.8)
    grain = 0.6 * noise(rng, y.shape, 30, 40) + 0.4 * noise(rng, y.shape, 1.5, 1.5)
    return mix(colour(hue, 0.3, value), colour(hue, 0.2, value + 0.2), grain.ravel())


def water(rng: Random, y: Array, x: Array) -> Array:
    hue, value = rng.uniform(185, 220), rng.uniform(0.35, 0.6)
    wave = 0.5 + 0.5 * np.sin(y / rng.uniform(1.5, 3) + 8 * noise(rng, y.shape, 25, 60))
    return mix(colour(hue, 0.6, value), colour(hue, 0.4, value + 0.2), wave.ravel())


def bricks(rng: Random, y: Array, x: Array) -> Array:
    height = rng.uniform(9, 16)
    row = np.floor(y / height)
    across = x / (2.2 * height) + 0.5 * (row % 2)
    mortar = (y / height % 1 < 0.12) | (across % 1 < 0.06)
    tone = np.sin(row * 12.9 + np.floor(across) * 78.2) * 0.3 + 0.3 * noise(rng, y.shape, 2, 2)
    base = colour(rng.uniform(0, 30), rng.uniform(0.25, 0.5), rng.uniform(0.4, 0.65))
    return mix(base, np.full(3, 190, np.float32), np.where(mortar, 0.8, np.clip(tone, 0, 0.4)).ravel())


STUFF: tuple[tuple[str, Callable[[Random, Array, Array], Array]], ...] = (
    ("sky", sky),
    ("grass", grass),
    ("sand", sand),
    ("water", water),
    ("bricks", bricks),
)


def background(rng: Random, size: tuple[int, int]) -> Scene:
    """One to three kinds of stuff, each behind a wavy border below the one before."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    kinds = rng.permutation(len(STUFF))[: rng.choice([1, 2, 3], p=[0.25, 0.5, 0.25])]
    canvas, stuff = np.zeros((*size, 3), np.float32), np.zeros(size, np.uint8)
    column = np.arange(size[1])  # the borders in float64: they decide labels
    for i, kind in enumerate(kinds):
        slope, wave, period = rng.uniform(-0.4, 0.4), rng.uniform(0, 10), rng.uniform(12, 50)
        border = size[0] * (i - rng.uniform(0, 0.6)) / len(kinds) + slope * (column - size[1] / 2)
        below = (np.arange(size[0])[:, None] > border + wave * np.sin(column / period)) | (i == 0)
        cv2.copyTo(STUFF[kind][1](rng, y, x).reshape(*size, 3), below.astype(np.uint8), canvas)
        stuff[below] = kind
    turn = rng.uniform(0, 2 * np.pi)
    return Scene(canvas, np.full(size, -1, np.int16), stuff, np.array([np.cos(turn), np.sin(turn)]))


def rasterise(rings: list[list[float]], size: tuple[int, int]) -> Array:
    """Flat rings [x, y, x, y, ...] -> bool (H, W), their union, as COCO's tools read polygons."""
    mask: Array = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, *size))).astype(bool)
    return mask


def place(scene: Scene, rng: Random, category: Category, size: float, centre: Array) -> bool:
    """Draw one object, unless too little of it would be in the image or too little left of an earlier one."""
    figure = category.draw(rng, size)
    turn = np.radians(rng.uniform(-category.tilt, category.tilt))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    parts, holes = ([np.round(r @ rotation.T + centre, 2) for r in rings] for rings in (figure.parts, figure.holes))
    shape = scene.owner.shape
    mask = rasterise([r.ravel().tolist() for r in parts], shape)
    if holes:
        mask &= ~rasterise([r.ravel().tolist() for r in holes], shape)
    extent = np.concatenate(parts)
    inside = np.clip(extent, 0, shape[::-1])
    if np.prod(np.ptp(inside, axis=0)) < 0.6 * np.prod(np.ptp(extent, axis=0)) or leaves_too_little(scene, mask):
        return False
    paint(scene, rng, figure, mask, rotation, centre)
    outline = parts[0] if len(parts) == 1 and not holes and (inside == extent).all() else None
    keypoints = None if figure.keypoints is None else figure.keypoints @ rotation.T + centre
    scene.owner[mask] = len(scene.objects)
    scene.objects.append(Placed(category, int(mask.sum()), outline=outline, keypoints=keypoints))
    return True


def leaves_too_little(scene: Scene, mask: Array) -> bool:
    """Whether drawing `mask` would all but hide an earlier object, or be next to nothing itself."""
    if mask.sum() < 30:
        return True
    count = len(scene.objects)
    hidden = np.bincount(scene.owner[mask] + 1, minlength=count + 1)[1:]
    if not hidden.any():
        return False
    visible = np.bincount(scene.owner.ravel() + 1, minlength=count + 1)[1:]
    least = np.maximum(MIN_VISIBLE * np.array([o.drawn for o in scene.objects]), 20)
    return bool((visible - hidden < least)[hidden > 0].any())


def paint(scene: Scene, rng: Random, figure: Figure, mask: Array, rotation: Array, centre: Array) -> None:
    """A soft shadow on what lies below, so that neighbours of one kind part; then the figure's own pixels."""
    height = rng.uniform(2, 5)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(rows[0] - SHADOW, 0), max(columns[0] - SHADOW, 0)
    window = (slice(top, rows[-1] + SHADOW), slice(left, columns[-1] + SHADOW))
    canvas, mask = scene.canvas[window], mask[window]
    move = np.array([[1, 0, height * scene.light[0]], [0, 1, height * scene.light[1]]])
    cast = cv2.warpAffine(mask.astype(np.float32), move, mask.shape[::-1])
    shadow = 1 - rng.uniform(0.4, 0.65) * cv2.GaussianBlur(cast, (0, 0), height / 2)
    canvas *= cv2.merge([shadow] * 3)
    y, x = np.nonzero(mask)
    offset = np.stack([x, y]) + 0.5 + [[left], [top]] - centre[:, None]
    u, v = (rotation.T @ offset).astype(np.float32)
    slope = scene.light @ offset / (np.ptp(rows) + np.ptp(columns) + 1)
    shade = rng.uniform(0.85, 1.0) - 0.3 * slope
    canvas[y, x] = figure.paint(u, v) * shade.astype(np.float32)[:, None]


def place_crowd(scene: Scene, rng: Random) -> None:
    """A crowd: a dozen or more tiny figures of one kind, all of them one object."""
    h, w = scene.owner.shape
    category = CATEGORIES[rng.integers(len(CATEGORIES))]
    size, middle = rng.uniform(9, 13), np.array([w, h]) * rng.uniform(0.2, 0.8, 2)
    spread = np.array([rng.uniform(25, 45), rng.uniform(12, 25)])
    members = Scene(scene.canvas, scene.owner.copy(), scene.stuff, scene.light)
    for _ in range(rng.integers(14, 30)):
        place(members, rng, category, size * rng.uniform(0.8, 1.2), middle + spread * rng.uniform(-1, 1, 2))
    painted = members.owner >= 0
    if painted.any():
        scene.owner[painted] = len(scene.objects)
        scene.objects.append(Placed(category, int(painted.sum()), crowd=True))


def draw_scene(rng: Random) -> Scene:
    """A whole picture: groups of one kind, most often alone, else close enough to overlap; large ones drawn first."""
    short = int(rng.integers(SHORT_SIDE[0], SHORT_SIDE[1] + 1))
    size = (short, int(rng.integers(short, LONG_SIDE + 1)))
    size = size if rng.random() < 0.6 else size[::-1]
    scene = background(rng, size)
    if rng.random() >= EMPTY_SHARE:
        if rng.random() < CROWD_SHARE:
            place_crowd(scene, rng)
        share = rng.random(rng.integers(3, 7)) ** 0.65  # a power of 1, log-uniform sizes, gives too few large ones
        scales = SIZES[0] * (min(SIZES[1], short) / SIZES[0]) ** share
        order = np.argsort(-scales * rng.uniform(0.8, 1.25, len(scales)))
        for scale in scales[order]:
            place_group(scene, rng, scale)
    return scene


def place_group(scene: Scene, rng: Random, scale: float) -> None:
    """One to three figures of one kind and about this size, the later ones beside and partly over the earlier."""
    category = CATEGORIES[rng.integers(len(CATEGORIES))]
    count = int(rng.choice([1, 2, 3], p=[0.76, 0.17, 0.07]))
    for _ in range(8):  # tries: the picture may be full here
        centre = np.array(scene.owner.shape[::-1]) * rng.uniform(0.1, 0.9, 2)
        if place(scene, rng, category, scale, centre):
            break
    else:
        return
    for _ in range(count - 1):
        for _ in range(4):
            turn, reach = rng.uniform(0, 2 * np.pi), scale * rng.uniform(0.3, 0.6)
            beside = centre + reach * np.array([np.cos(turn), np.sin(turn)])
            if place(scene, rng, category, scale * rng.uniform(0.75, 1.2), beside):
                centre = beside
                break


def photograph(scene: Scene, rng: Random) -> Array:
    """The scene through a plain camera, slightly soft and noisy: uint8 (H, W, 3) RGB."""
    picture: Array = cv2.GaussianBlur(scene.canvas, (0, 0), rng.uniform(0.4, 0.7))
    grain = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
    picture *= rng.uniform(0.8, 1.1)
    picture += grain
    rounded: Array = np.clip(picture, 0, 255, out=picture).round().astype(np.uint8)
    return rounded
