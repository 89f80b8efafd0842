"""LabelMe's JSON files: one for each image, with polygons, rectangles and circles."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.data.converters.common import (
    ImageFinder,
    LabelledImage,
    LabelledObject,
    extent,
    files_below,
    read_text,
    size_of,
    to_coco,
)
from maskrcnn.data.records import DatasetError

CIRCLE_POINTS = 64  # at most 0.12 % of the radius away from the circle
NOT_CLASSES = frozenset(("__ignore__", "_background_"))  # with which LabelMe's lists of labels begin

Point = tuple[float, float]


def labelme_to_coco(folder: str | Path, *, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Every LabelMe file below a folder, and its image, as a COCO annotation file with polygons.

    Rectangles and circles become polygons. Shapes with the same label and `group_id` are parts of one object. Shapes
    labelled `__ignore__` or `_background_` are left out, and so are JSON files that are in COCO format already.

    Args:
        folder: with the JSON files; their images are where `imagePath` says, or anywhere in it. File names in the
            result are as seen from here.
        class_names: the categories in their order; None: all labels that occur, sorted.

    Raises:
        DatasetError: a file that is not LabelMe's, or something wrong in it; names file, shape and field.
    """
    folder = Path(folder)
    contents = {path: _read(path) for path in files_below(folder, (".json",))}
    contents = {path: content for path, content in contents.items() if not {"images", "annotations"} <= content.keys()}
    if not contents:
        raise DatasetError(f"{folder}: no LabelMe .json file in it")
    if class_names is not None:
        class_names = [name for name in class_names if name not in NOT_CLASSES]
    find_image = ImageFinder(folder)
    return to_coco(folder, [_image(path, content, find_image) for path, content in contents.items()], class_names)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: not a JSON file: {error.msg} in line {error.lineno}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: not LabelMe's: it holds no object {{...}}; move it elsewhere")
    content.pop("imageData", None)  # a copy of the image, which all files together would hold in memory
    return content


def _image(path: Path, content: dict[str, Any], find_image: ImageFinder) -> LabelledImage:
    shapes, named = content.get("shapes"), content.get("imagePath")
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise DatasetError(f"{path}: not LabelMe's: it has no list 'shapes'; move it elsewhere")
    if not isinstance(named, str) or not named:
        raise DatasetError(f"{path}: 'imagePath' is {named!r}, but must name the image")
    image = path.parent / named.replace("\\", "/")
    if not image.is_file():
        image = find_image(path, [image.name])
    height, width = content.get("imageHeight"), content.get("imageWidth")
    stated = (height, width) if height and width else None
    return LabelledImage(image, size_of(image, stated, path), _objects(path, shapes), source=path)


def _objects(path: Path, shapes: list[dict[str, Any]]) -> list[LabelledObject]:
    groups: dict[tuple[str, object], tuple[str, list[list[float]]]] = {}
    for i, shape in enumerate(shapes, start=1):
        where = f"{path}: shape {i}"
        label, group = shape.get("label"), shape.get("group_id")
        if not isinstance(label, str) or not label:
            raise DatasetError(f"{where}: 'label' is {label!r}, but must name its class")
        where = f"{where} ({label})"
        if group is not None and not isinstance(group, int | str):
            raise DatasetError(f"{where}: 'group_id' is {group!r}, but must be a number or null")
        if label not in NOT_CLASSES:
            key = (label, ("alone", i) if group is None else group)
            groups.setdefault(key, (where, []))[1].append(_polygon(where, shape))
    return [
        LabelledObject(where, label, extent(polygons), polygons) for (label, _), (where, polygons) in groups.items()
    ]


def _polygon(where: str, shape: dict[str, Any]) -> list[float]:
    kind = shape.get("shape_type") or "polygon"  # files of the first versions do not say
    if kind not in SHAPES:
        raise DatasetError(
            f"{where}: 'shape_type' is {kind!r}, which has no area or is not converted; draw it as one of "
            f"{', '.join(SHAPES)}, or remove it"
        )
    to_points, counts, expected = SHAPES[kind]
    points = shape.get("points")
    if not isinstance(points, list) or not all(map(_is_point, points)):
        raise DatasetError(f"{where}: 'points' must be a list of [x, y], finite numbers")
    if len(points) not in counts:
        raise DatasetError(f"{where}: 'points' has {len(points)} points, but a {kind} has {expected}; draw it again")
    return [float(value) for point in to_points([(x, y) for x, y in points]) for value in point]


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value)
    )


def _rectangle(points: list[Point]) -> list[Point]:
    xs, ys = zip(*points, strict=True)
    return [(min(xs), min(ys)), (max(xs), min(ys)), (max(xs), max(ys)), (min(xs), max(ys))]


def _circle(points: list[Point]) -> list[Point]:
    (cx, cy), (x, y) = points
    radius = math.hypot(x - cx, y - cy)
    angles = [2 * math.pi * i / CIRCLE_POINTS for i in range(CIRCLE_POINTS)]
    return [(cx + radius * math.cos(a), cy + radius * math.sin(a)) for a in angles]


# shape_type -> its outline from its points, how many of them there may be, and that in words
SHAPES: dict[str, tuple[Callable[[list[Point]], list[Point]], range | tuple[int, ...], str]] = {
    "polygon": (list, range(3, 1_000_000), "at least three"),
    "rectangle": (_rectangle, (2, 4), "two opposite corners, or four"),  # four: X-AnyLabeling's
    "circle": (_circle, (2,), "its centre and one point on it"),
}
