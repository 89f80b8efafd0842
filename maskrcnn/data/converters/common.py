"""What the converters share: files of a folder, sizes of images, names of classes, and the COCO format itself."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pycocotools import mask as coco_mask

from maskrcnn.data.folders import walk
from maskrcnn.data.images import IMAGE_SUFFIXES, read_image_size
from maskrcnn.data.records import DatasetError

DECIMALS = 3  # of a pixel


@dataclass(frozen=True, slots=True)
class LabelledObject:
    """One object as a converter found it.

    Args:
        where: the file and which of its objects, for messages.
        name: of the class.
        box: XYXY in pixels, continuous.
        polygons: [x1, y1, x2, y2, ...] for each part; none where there is only a box.
        fields: what else the annotation says, such as {"iscrowd": 1}.
    """

    where: str
    name: str
    box: tuple[float, float, float, float]
    polygons: list[list[float]] = field(default_factory=list)
    fields: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image with its (h, w) and objects, and the file that they are from."""

    path: Path
    size: tuple[int, int]
    objects: list[LabelledObject]
    source: Path


def to_coco(folder: Path, images: Iterable[LabelledImage], class_names: Sequence[str] | None) -> dict[str, Any]:
    """The content of a COCO annotation file, whose `file_name`s are as seen from `folder`.

    Images are sorted by file name, and all ids count from 1. Coordinates are rounded to three decimals, and boxes cut
    to the image; `area` is that of the mask in pixels, or else of the box.

    Args:
        class_names: the categories in their order; None: all that occur, sorted.

    Raises:
        DatasetError: a class that is not among the names, a box of no area inside its image, an image that two files
            are about, or nothing at all.
    """
    named = sorted(((_as_seen_from(folder, image.path), image) for image in images), key=lambda pair: pair[0])
    if not named:
        raise DatasetError(f"{folder}: nothing to convert in it")
    names = class_names or sorted({obj.name for _, image in named for obj in image.objects})
    if not names:
        raise DatasetError(
            f"{folder}: no object in any of its {len(named)} images; name the classes to convert it nevertheless"
        )
    category_ids = {name: id_ for id_, name in enumerate(names, start=1)}
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sources: dict[str, Path] = {}
    for image_id, (file_name, image) in enumerate(named, start=1):
        if file_name in sources:
            raise DatasetError(
                f"{image.source} and {sources[file_name]} are both about the image {image.path}; remove one of the two"
            )
        sources[file_name] = image.source
        height, width = image.size
        entries.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for obj in image.objects:
            if obj.name not in category_ids:
                raise DatasetError(
                    f"{obj.where}: {obj.name!r} is none of {', '.join(names)}; correct it, or add it to them"
                )
            keys = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_ids[obj.name]}
            annotations.append(keys | _geometry(obj, image.size) | {"iscrowd": 0} | obj.fields)
    categories = [{"id": id_, "name": name} for name, id_ in category_ids.items()]
    return {"images": entries, "categories": categories, "annotations": annotations}


def _geometry(obj: LabelledObject, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    x1, y1, x2, y2 = obj.box
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    bbox = [round(value, DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)]
    if not (bbox[2] > 0 and bbox[3] > 0):
        raise DatasetError(
            f"{obj.where}: its box, x {obj.box[0]:g} to {obj.box[2]:g} and y {obj.box[1]:g} to {obj.box[3]:g}, has no "
            f"area inside the image, which is {width} wide and {height} high; correct or remove the object"
        )
    if not obj.polygons:
        return {"bbox": bbox, "area": round(bbox[2] * bbox[3], DECIMALS)}
    polygons = [[round(value, DECIMALS) for value in polygon] for polygon in obj.polygons]
    covered = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return {"bbox": bbox, "area": int(coco_mask.area(covered)), "segmentation": polygons}


def extent(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The XYXY box around polygons."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files with one of these suffixes, in lower case, sorted; hidden files and folders are left out.

    Raises:
        DatasetError: there is no such folder.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    return sorted(
        place / name for place, names in walk(folder) for name in names if os.path.splitext(name)[1].lower() in suffixes
    )


class ImageFinder:
    """Finds the images of a folder by name, for files that name their image without its folder.

    `without` are the names of folders whose images are not meant.
    """

    def __init__(self, folder: Path, *, without: Collection[str] = ()) -> None:
        self.folder = folder
        self._by_name: dict[str, list[Path]] = {}
        for path in files_below(folder, IMAGE_SUFFIXES):
            if path.parent.name not in without:
                self._by_name.setdefault(path.name, []).append(path)
                self._by_name.setdefault(path.stem, []).append(path)

    def __call__(self, source: Path, names: Iterable[str]) -> Path:
        """The image by the first of these names, with or without suffix, that there is; of several the one that shares
        most folders with `source`, the file that names it.

        Raises:
            DatasetError: there is none, or the choice is open.
        """
        names = list(dict.fromkeys(names))
        for name in names:
            if found := self._by_name.get(name):
                shared = [len(os.path.commonpath([source.parent, path.parent])) for path in found]
                best = [path for path, count in zip(found, shared, strict=True) if count == max(shared)]
                if len(best) > 1:
                    raise DatasetError(
                        f"{source}: its image {name!r} may be {best[0]} or {best[1]}; convert their folders one by one"
                    )
                return best[0]
        raise DatasetError(
            f"{source}: no image {' or '.join(map(repr, names))} in {self.folder}; add it, or remove this file"
        )


def size_of(path: Path, stated: tuple[int, int] | None, source: Path) -> tuple[int, int]:
    """(h, w) of the frame that an image was annotated in: turned as its EXIF orientation says, or if only that has the
    stated size, as stored.

    Args:
        stated: (h, w) in the annotations, None if they do not say.
        source: the annotations, for the message.

    Raises:
        DatasetError: the image cannot be read, or is of another size than stated.
    """
    size = read_image_size(path)
    if stated in (None, size):
        return size
    if stated == read_image_size(path, orient=False):
        return stated
    raise DatasetError(
        f"{source}: says that its image is {stated[1]} wide and {stated[0]} high, but {path} is {size[1]} wide and "
        f"{size[0]} high; restore the image that was annotated"
    )


def read_names(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line, or from the `names` of a YAML file, a list or {0: name, 1: name}.

    Raises:
        DatasetError: it cannot be read, holds no name, or one twice.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        found = read_yaml(path).get("names")
        if isinstance(found, dict):
            if sorted(found) != list(range(len(found))):
                raise DatasetError(f"{path}: 'names' must count 0, 1, 2, ..., but has {', '.join(map(str, found))}")
            found = [found[i] for i in range(len(found))]
        if not isinstance(found, list):
            raise DatasetError(f"{path}: no list 'names'")
        names = [str(name) for name in found]
    else:
        names = [line.strip() for line in read_text(path).strip().splitlines()]
    if not names or "" in names:  # a line left out would move all that follow to another number
        raise DatasetError(f"{path}: holds no name, or an empty one; write one name a line")
    for name, count in Counter(names).items():
        if count > 1:
            raise DatasetError(f"{path}: the class {name!r} stands in it {count} times; leave one")
    return tuple(names)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that is a mapping.

    Raises:
        DatasetError: it cannot be read, or is something else.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise DatasetError(f"{path}: not a YAML file" + (f": see line {mark.line + 1}" if mark else "")) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: must be a mapping, with 'names'")
    return content


def read_text(path: Path) -> str:
    """A text file in UTF-8.

    Raises:
        DatasetError: it cannot be read, or is something else.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: not a text file in UTF-8; save it as one") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


def number(text: str, where: str) -> float:
    """A finite number.

    Raises:
        DatasetError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{where} is {text!r}, but must be a number")
    return value


def _as_seen_from(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
