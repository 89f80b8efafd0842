"""PASCAL VOC's XML files: one for each image, with the boxes of its objects."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskrcnn.data.converters.common import (
    ImageFinder,
    LabelledImage,
    LabelledObject,
    files_below,
    number,
    read_text,
    size_of,
    to_coco,
)
from maskrcnn.data.records import DatasetError

MASK_FOLDERS = ("SegmentationClass", "SegmentationObject")  # their pictures have the names of the images
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc_to_coco(
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    split: str | None = None,
    difficult_as_crowd: bool = False,
) -> dict[str, Any]:
    """Every XML file below a folder, and its image, as a COCO annotation file with boxes.

    VOC counts pixels from 1 and names the first and the last one of a box: xmin - 1, ymin - 1, xmax, ymax are its
    continuous corners. `difficult` is kept as a field. Parts of objects (`<part>`) are left out.

    Args:
        folder: with `Annotations` and `JPEGImages`, or XML files and images in any other folders. File names in the
            result are as seen from here.
        class_names: the categories in their order; None: all names that occur, sorted.
        split: only what ImageSets/Main/SPLIT.txt lists.
        difficult_as_crowd: difficult objects become crowd regions: not trained on, and finding them is no mistake.

    Raises:
        DatasetError: a file that is not VOC's, or something wrong in it; names file, object and field.
    """
    folder = Path(folder)
    files = files_below(folder, (".xml",))
    if split is not None:
        files = _of_split(folder, files, split)
    elif not files:
        raise DatasetError(f"{folder}: no .xml file in it; VOC's annotations are in the folder Annotations")
    find_image = ImageFinder(folder, without=MASK_FOLDERS)
    images = [_image(path, find_image, difficult_as_crowd=difficult_as_crowd) for path in files]
    return to_coco(folder, images, class_names)


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    lists = folder / "ImageSets" / "Main"
    path = lists / f"{split}.txt"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in lists.glob("*.txt"))) or "none"
        raise DatasetError(f"{path}: no such list of images; lists in its folder: {there}")
    by_stem = {file.stem: file for file in files}
    stems = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    for stem in stems:
        if stem not in by_stem:
            raise DatasetError(f"{path}: lists {stem!r}, but there is no {stem}.xml below {folder}; unpack all of it")
    return [by_stem[stem] for stem in dict.fromkeys(stems)]


def _image(path: Path, find_image: ImageFinder, *, difficult_as_crowd: bool) -> LabelledImage:
    try:
        root = ET.fromstring(path.read_bytes())
    except ET.ParseError as error:
        raise DatasetError(f"{path}: not an XML file: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    if root.tag != "annotation":
        raise DatasetError(f"{path}: not VOC's: it begins with <{root.tag}>, not <annotation>; move it elsewhere")
    named = _text(root, "filename").replace("\\", "/").rpartition("/")[2]
    image = find_image(path, [name for name in (named, path.stem) if name])
    return LabelledImage(
        path=image,
        size=size_of(image, _stated_size(path, root), path),
        objects=[
            _object(f"{path}: object {i}", node, difficult_as_crowd=difficult_as_crowd)
            for i, node in enumerate(root.iterfind("object"), start=1)
        ],
        source=path,
    )


def _stated_size(path: Path, root: ET.Element) -> tuple[int, int] | None:
    """(h, w); None if it is not there, or zero, which some programs write for want of it."""
    height, width = (
        number(_text(root, f"size/{side}") or "0", f"{path}: <{side}> of <size>") for side in ("height", "width")
    )
    return (int(height), int(width)) if height and width else None


def _object(where: str, node: ET.Element, *, difficult_as_crowd: bool) -> LabelledObject:
    name = _text(node, "name")
    if not name:
        raise DatasetError(f"{where}: no <name>; name its class, or remove the object")
    where = f"{where} ({name})"
    if node.find("bndbox") is None:
        raise DatasetError(f"{where}: no <bndbox>; add its box, or remove the object")
    x1, y1, x2, y2 = (number(_text(node, f"bndbox/{corner}"), f"{where}: <{corner}>") for corner in CORNERS)
    for axis, first, last in (("x", x1, x2), ("y", y1, y2)):
        if last < first:
            raise DatasetError(f"{where}: <{axis}max> is {last:g}, less than <{axis}min>, {first:g}; correct the box")
    difficult = _text(node, "difficult") or "0"
    if difficult not in ("0", "1"):
        raise DatasetError(f"{where}: <difficult> is {difficult!r}, but must be 0 or 1")
    fields = {"difficult": int(difficult)}
    if difficult_as_crowd:
        fields["iscrowd"] = int(difficult)
    return LabelledObject(where, name, (x1 - 1, y1 - 1, x2, y2), fields=fields)


def _text(node: ET.Element, path: str) -> str:
    return (node.findtext(path) or "").strip()
