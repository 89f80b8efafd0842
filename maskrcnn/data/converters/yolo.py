"""YOLO's text files: one for each image, with a line for each object, its box or its polygon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.data.converters.common import (
    LabelledImage,
    LabelledObject,
    extent,
    files_below,
    number,
    read_names,
    read_text,
    read_yaml,
    to_coco,
)
from maskrcnn.data.images import IMAGE_SUFFIXES, read_image_size
from maskrcnn.data.records import DatasetError

NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
SLACK = 0.01  # by which rounding, or a hasty mouse, may leave the image


def yolo_to_coco(folder: str | Path, *, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Every image below a folder, with the objects of its label file, as a COCO annotation file.

    A line is `class cx cy w h`, a box, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon, in parts of the image's width and
    height. The label file of .../images/a.jpg is .../labels/a.txt, or else a.txt beside it; an image without one has no
    objects.

    Args:
        folder: a folder of images, such as data/images/train, or any above it. File names in the result are as seen
            from here.
        class_names: by class number; None: from data.yaml or classes.txt in this folder, that of the labels, or the
            two above.

    Raises:
        DatasetError: no images, labels or names, or something wrong in a line; names file, line and value.
    """
    folder = Path(folder)
    images = files_below(folder, IMAGE_SUFFIXES)
    if not images:
        raise DatasetError(f"{folder}: no image files in it; name the folder of images, or one above it")
    labels = {image: _label_file(image) for image in images}
    found = {image for image, path in labels.items() if path.is_file()}
    if not found:
        raise DatasetError(
            f"{folder}: none of its {len(images)} images has a label file; {labels[images[0]]}, for one, is not there"
        )
    _check_orphans(labels)
    if class_names is None:
        class_names = _names(folder, labels.values())
    return to_coco(folder, [_image(image, labels[image], class_names) for image in images], class_names)


def _label_file(image: Path) -> Path:
    """Where the label file of an image is, or should be."""
    beside = image.with_suffix(".txt")
    parts = beside.absolute().parts
    for i in range(len(parts) - 2, 0, -1):
        if parts[i] == "images":
            parallel = Path(*parts[:i], "labels", *parts[i + 1 :])
            return beside if beside.is_file() and not parallel.is_file() else parallel
    return beside


def _check_orphans(labels: Mapping[Path, Path]) -> None:
    """That each label file has its image: one that was not copied would be lost without a word.

    Beside the images there may be text files of any kind, so only folders of labels are looked through.
    """
    expected = set(labels.values())
    for folder in sorted({path.parent for image, path in labels.items() if path.parent != image.parent}):
        for path in sorted(folder.glob("*.txt")):
            if path not in expected and path.name not in NAME_FILES:
                raise DatasetError(f"{path}: there is no image of this name; add it, or remove the label file")


def _names(folder: Path, labels: Iterable[Path]) -> tuple[str, ...]:
    here = folder.resolve()
    places = [here, here / "labels", *(path.parent for path in labels), here.parent, here.parent.parent]
    for place in dict.fromkeys(places):
        for name in NAME_FILES:
            path = place / name
            if not path.is_file():
                continue
            if path.suffix in (".yaml", ".yml") and "kpt_shape" in read_yaml(path):
                raise DatasetError(f"{path}: has 'kpt_shape', so its labels are keypoints, which are not converted")
            return read_names(path)
    raise DatasetError(f"{folder}: no data.yaml or classes.txt names the classes; give a file that does")


def _image(image: Path, label_file: Path, class_names: Sequence[str]) -> LabelledImage:
    size = read_image_size(image)
    lines = read_text(label_file).splitlines() if label_file.is_file() else []
    objects = [
        _object(f"{label_file}, line {i}", line.split(), class_names, size)
        for i, line in enumerate(lines, start=1)
        if line.strip()
    ]
    return LabelledImage(image, size, objects, label_file)


def _object(where: str, words: list[str], class_names: Sequence[str], size: tuple[int, int]) -> LabelledObject:
    label, *values = (number(word, f"{where}: {_nth(i)}") for i, word in enumerate(words))
    if not (label.is_integer() and 0 <= label < len(class_names)):
        raise DatasetError(
            f"{where}: the class is {words[0]}, but there are {len(class_names)} names: 0 to {len(class_names) - 1}"
        )
    if len(values) == 5:
        raise DatasetError(f"{where}: has six numbers; remove the last one, if it is the score of a prediction")
    if len(values) < 4 or len(values) % 2:
        raise DatasetError(
            f"{where}: has {len(words)} numbers; a box is 'class cx cy w h', a polygon 'class x1 y1 x2 y2 x3 y3 ...', "
            "of three points or more"
        )
    for i, value in enumerate(values, start=1):
        if not -SLACK <= value <= 1 + SLACK:
            raise DatasetError(
                f"{where}: {_nth(i)} is {words[i]}, but must be from 0 to 1: pixels divided by the image's sides"
            )
    height, width = size
    name = class_names[int(label)]
    if len(values) == 4:
        cx, cy, w, h = values
        box = (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height
        return LabelledObject(where, name, box)
    polygon = [min(max(value, 0), 1) * (height if i % 2 else width) for i, value in enumerate(values)]
    return LabelledObject(where, name, extent([polygon]), [polygon])


def _nth(i: int) -> str:
    return f"number {i + 1}"
