"""COCO-format annotation files (cocodataset.org/#format-data): instances and keypoints.

What a user can get wrong is checked here once, before anything is trained, and each error says where it is.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.layouts import COCO_LAYOUTS
from maskrcnn.data.records import NUM_KEYPOINTS, Dataset, DatasetError, ImageRecord, ObjectRecord
from maskrcnn.registry import DATASETS
from maskrcnn.structures.rle import RLE, decode_counts

logger = logging.getLogger(__name__)

# name -> annotation file and folder of images, below the data root
LAYOUT = {
    name: (annotations.path, images.path)
    for layout in COCO_LAYOUTS.values()
    for name, (annotations, images) in layout.data_sets.items()
}

KINDS: dict[type | tuple[type, ...], str] = {
    int: "an integer",
    (int, float): "a number",
    str: "a text",
    list: "a list",
    dict: "an object {...}",
}


def read_coco(json_path: str | Path, images: str | Path, *, name: str | None = None) -> Dataset:
    """Read an annotation file and check all of it, and that the image files are there.

    Images keep the file's order, with or without annotations. Category ids, which may have gaps, become labels 0..K-1
    in the order of the ids. Boxes [x, y, w, h] become XYXY, clipped to the image. Polygons, compressed and
    uncompressed RLE and crowd regions are read; keypoints are moved from pixel indices to pixel centres (+0.5).

    Args:
        json_path: the annotation file.
        images: the folder that its `file_name`s are in, or start from.
        name: of the data set; the file's name without .json if None.

    Raises:
        DatasetError: the first thing that is wrong, with file, id, field, value and remedy.
    """
    json_path, images = Path(json_path), Path(images)
    start = time.perf_counter()
    collecting = gc.isenabled()
    gc.disable()  # millions of small values without a cycle among them: collecting would double the time
    try:
        data = _load(json_path)
        labels, class_names = _categories(json_path, data)
        entries = _images(json_path, data)
        _check_files(json_path, entries, images)
        annotations = _annotations_by_image(json_path, data, entries)
        dataset = Dataset.from_records(
            _records(json_path, entries, annotations, labels, images),
            class_names=class_names,
            category_ids=tuple(labels),
            name=name or json_path.stem,
            json_path=json_path,
            image_root=images,
        )
    finally:
        if collecting:
            gc.enable()
    seconds = time.perf_counter() - start
    logger.info(
        "%s: %d images, %d objects, read in %.1f s", json_path, len(dataset), dataset.num_objects.sum(), seconds
    )
    return dataset


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such annotation file (looked in {path.parent.absolute()})") from None
    except OSError as error:
        raise DatasetError(f"{path}: the annotation file cannot be read: {error.strerror}") from error
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        hint = ""
        if text.lstrip()[:1] == b"<":
            hint = "; it starts like a web page: download it again"
        elif not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated"):
            hint = "; it ends too early: was a download cut off?"
        raise DatasetError(
            f"{path}: not a JSON file: {error.msg} at line {error.lineno}, column {error.colno}{hint}"
        ) from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: not a JSON file: it is not even text; unpack it if it is an archive") from None
    if not isinstance(data, dict):
        hint = " (a list is what results files hold)" if isinstance(data, list) else ""
        raise DatasetError(f"{path}: holds {_show(data)}, but a COCO annotation file is an object {{...}}{hint}")
    for key in ("images", "annotations", "categories"):
        if key not in data:
            raise DatasetError(
                f"{path}: no '{key}'; a COCO annotation file has 'images', 'annotations' and 'categories', this one "
                f"has {', '.join(map(repr, data)) or 'nothing'}"
            )
        if not isinstance(data[key], list):
            raise DatasetError(f"{path}: '{key}' is {_show(data[key])}, but must be a list")
        for i, entry in enumerate(data[key]):
            if not isinstance(entry, dict):
                raise DatasetError(f"{path}: entry {i} of '{key}' is {_show(entry)}, but must be an object {{...}}")
    return data


def _categories(path: Path, data: dict[str, Any]) -> tuple[dict[int, int], tuple[str, ...]]:
    """Category id -> label, in the order of the ids, and the names by label."""
    field = partial(_field, path, "category")
    names: dict[int, str] = {}
    for category in data["categories"]:
        id_ = field(category, "id", int)
        if id_ in names:
            raise DatasetError(f"{path}: two categories have the id {id_}: {names[id_]!r} and {category.get('name')!r}")
        names[id_] = field(category, "name", str)
    if not names:
        raise DatasetError(f"{path}: 'categories' is empty; it must name every category that is annotated")
    return {id_: label for label, id_ in enumerate(sorted(names))}, tuple(names[id_] for id_ in sorted(names))


def _images(path: Path, data: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The checked entries of 'images' by id, in the file's order."""
    field = partial(_field, path, "image")
    entries: dict[int, dict[str, Any]] = {}
    for image in data["images"]:
        id_ = field(image, "id", int)
        if id_ in entries:
            raise DatasetError(
                f"{path}: two images have the id {id_}: {entries[id_]['file_name']!r} and {image.get('file_name')!r}"
            )
        if not field(image, "file_name", str):
            raise DatasetError(f"{path}: image {id_}: 'file_name' is empty")
        for side in ("height", "width"):
            if field(image, side, int) < 1:
                raise DatasetError(f"{path}: image {id_}: '{side}' is {image[side]}, but must be at least 1")
        entries[id_] = image
    if not entries:
        raise DatasetError(f"{path}: 'images' is empty")
    return entries


def _check_files(path: Path, entries: dict[int, dict[str, Any]], root: Path) -> None:
    """That the image files are there, by listing each folder once: a look at every file is slow on network disks."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; the images of {path} should be in it")
    listings: dict[Path, set[str]] = {}
    missing = []
    for id_, image in entries.items():
        file = root / image["file_name"]
        if file.parent not in listings:
            try:
                with os.scandir(file.parent) as listing:
                    listings[file.parent] = {entry.name for entry in listing}
            except OSError:
                listings[file.parent] = set()
        if file.name not in listings[file.parent]:
            missing.append((id_, file))
    # Looked at once more: a disk that ignores case, or links in the path, may have it under another name.
    for id_, file in missing:
        if not file.is_file():
            raise DatasetError(
                f"{path}: {len(missing)} of {len(entries)} image files are not in {root}, the first being that of "
                f"image {id_}, {file.name!r}; name the right folder, or add the files"
            )


def _annotations_by_image(
    path: Path, data: dict[str, Any], entries: dict[int, dict[str, Any]]
) -> dict[int, list[dict[str, Any]]]:
    field = partial(_field, path, "annotation")
    seen: set[int] = set()
    by_image: dict[int, list[dict[str, Any]]] = {id_: [] for id_ in entries}
    for annotation in data["annotations"]:
        id_, image_id = field(annotation, "id", int), field(annotation, "image_id", int)
        if id_ in seen:
            raise DatasetError(f"{path}: two annotations have the id {id_}; ids must be unique")
        if image_id not in by_image:
            raise DatasetError(
                f"{path}: annotation {id_}: 'image_id' is {image_id}, but 'images' has no image with this id; "
                "add the image or remove the annotation"
            )
        seen.add(id_)
        by_image[image_id].append(annotation)
    return by_image


def _records(
    path: Path,
    entries: dict[int, dict[str, Any]],
    annotations: dict[int, list[dict[str, Any]]],
    labels: dict[int, int],
    root: Path,
) -> Iterator[ImageRecord]:
    for id_, image in entries.items():
        size = (image["height"], image["width"])
        objects = [_object(path, annotation, size, labels) for annotation in annotations[id_]]
        _check_runs(path, objects)
        yield ImageRecord(image_id=id_, path=root / image["file_name"], size=size, objects=objects)


def _object(path: Path, annotation: dict[str, Any], size: tuple[int, int], labels: dict[int, int]) -> ObjectRecord:
    field = partial(_field, path, "annotation")
    fail = partial(_fail, path, annotation)
    category = field(annotation, "category_id", int)
    if category not in labels:
        raise fail("category_id", f"'categories' defines only {_some(sorted(labels))}")
    x, y, w, h = _bbox(annotation, field, fail)
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise fail("iscrowd", "it must be 0 or 1")
    area = field(annotation, "area", (int, float)) if "area" in annotation else w * h
    if not math.isfinite(area):
        raise fail("area", "it must be a finite number")
    height, width = size
    box = (min(max(x, 0), width), min(max(y, 0), height), min(max(x + w, 0), width), min(max(y + h, 0), height))
    return ObjectRecord(
        id=annotation["id"],
        box=np.array(box, np.float32),
        label=labels[category],
        crowd=bool(crowd),
        area=area,
        segmentation=_segmentation(annotation.get("segmentation"), size, fail),
        keypoints=_keypoints(annotation["keypoints"], fail) if "keypoints" in annotation else None,
    )


Fail = Callable[[str, str], DatasetError]


def _bbox(annotation: dict[str, Any], field: Callable[..., Any], fail: Fail) -> list[float]:
    bbox: list[float] = field(annotation, "bbox", list)
    if len(bbox) != 4 or not _finite(bbox) or bbox[2] < 0 or bbox[3] < 0:
        raise fail("bbox", "it must be four finite numbers [x, y, width, height], none of the sides negative")
    return bbox


def _segmentation(value: Any, size: tuple[int, int], fail: Fail) -> list[np.ndarray] | RLE | None:
    match value:
        case None | []:
            return None
        case list():
            return [_polygon(points, fail) for points in value]
        case dict():
            return _rle(value, size, fail)
    raise fail("segmentation", "it must be a list of polygons, or RLE {size, counts}")


def _polygon(points: Any, fail: Fail) -> np.ndarray:
    if not isinstance(points, list) or not _finite(points):
        raise fail("segmentation", "each polygon must be a list [x1, y1, x2, y2, ...] of finite numbers")
    if len(points) % 2 or len(points) < 6:
        raise fail(
            "segmentation",
            f"a polygon in it has {len(points)} numbers, but at least three points, six numbers, are needed, and an "
            "even count; remove this polygon",
        )
    return np.array(points, np.float32)


def _rle(value: dict[str, Any], size: tuple[int, int], fail: Fail) -> RLE:
    if value.get("size") != list(size):
        raise fail(
            "segmentation",
            f"the RLE's 'size' is {_show(value.get('size'))}, but its image has [height, width] {list(size)}",
        )
    counts = value.get("counts")
    if isinstance(counts, list) and set(map(type, counts)) == {int}:
        return {"size": list(size), "counts": counts}
    if isinstance(counts, str) and counts.isascii():
        return {"size": list(size), "counts": counts}
    raise fail("segmentation", "the RLE's 'counts' must be a list of run lengths, or a text in COCO's compressed form")


def _check_runs(path: Path, objects: list[ObjectRecord]) -> None:
    """That every RLE decodes to as many pixels as its image has; all of an image at once, which is quicker."""
    coded = [(o.id, o.segmentation) for o in objects if isinstance(o.segmentation, dict)]
    try:
        decode_counts([rle for _, rle in coded])
    except ValueError as error:
        if len(coded) > 1:
            for obj in objects:
                _check_runs(path, [obj])
        raise DatasetError(f"{path}: annotation {coded[0][0]}: 'segmentation' is not whole RLE: {error}") from None


def _keypoints(values: Any, fail: Fail) -> np.ndarray:
    if not isinstance(values, list) or len(values) != 3 * NUM_KEYPOINTS or not _finite(values):
        raise fail(
            "keypoints",
            f"it must be {NUM_KEYPOINTS} times x, y, visibility, all finite; remove 'keypoints' from the file if "
            "they are of another kind and only boxes and masks are needed",
        )
    keypoints = np.array(values, np.float32).reshape(NUM_KEYPOINTS, 3)
    keypoints[:, :2] += 0.5 * (keypoints[:, 2:] > 0)  # the file has pixel indices; unlabelled ones stay 0, 0, 0
    return keypoints


def _finite(values: list[Any]) -> bool:
    """Whether all are finite numbers; one sum, because this runs over every coordinate of the file."""
    try:
        return math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _field(path: Path, what: str, entry: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    """entry[key], which must be there and of this kind."""
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        where = f"{path}: {what} {entry['id']}" if "id" in entry else f"{path}: {what} {_show(entry)}"
        if key not in entry:
            raise DatasetError(f"{where}: no '{key}'")
        raise DatasetError(f"{where}: '{key}' is {_show(value)}, but must be {KINDS[kind]}")
    return value


def _fail(path: Path, annotation: dict[str, Any], key: str, reason: str) -> DatasetError:
    return DatasetError(f"{path}: annotation {annotation['id']}: '{key}' is {_show(annotation.get(key))}: {reason}")


def _show(value: Any) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__} of {len(value)})"


def _some(values: list[int]) -> str:
    return f"{values}" if len(values) <= 12 else f"{len(values)} ids from {values[0]} to {values[-1]}"


def _read_registered(name: str, root: Path) -> Dataset:
    json_path, images = (root / part for part in LAYOUT[name])
    if not json_path.is_file():
        raise DatasetError(
            f"data set {name!r}: no file {json_path.absolute()}; DATASETS.ROOT, or the environment variable "
            f"MASKRCNN_DATASETS, must name the folder that has {LAYOUT[name][0]} and {LAYOUT[name][1]} in it"
        )
    return read_coco(json_path, images, name=name)


for _name in LAYOUT:
    DATASETS.register(_name)(partial(_read_registered, _name))
