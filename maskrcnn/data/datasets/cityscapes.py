"""Cityscapes (cityscapes-dataset.com) from its original folders: fine annotations, eight classes with instances.

    cityscapes/leftImg8bit/{train,val,test}/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png
    cityscapes/gtFine/{train,val}/CITY/CITY_SEQUENCE_FRAME_gtFine_instanceIds.png

A pixel of an `instanceIds` file is 1000 * class id + number of the object, and elsewhere the class id alone; of a class
that has objects this means a group which nobody could take apart.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from maskrcnn.data.images import read_image_size
from maskrcnn.data.layouts import CITYSCAPES
from maskrcnn.data.records import Dataset, DatasetError, ImageRecord, ObjectRecord
from maskrcnn.ops.rle import compress_counts
from maskrcnn.registry import DATASETS

logger = logging.getLogger(__name__)

# The classes with objects that count, by label: the official order, and the official ids
CLASSES = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
# What the official evaluation ignores: unlabelled, the own car, the image's border, ..., caravan (29) and trailer (30)
VOID_IDS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
LAST_ID = 33
OBJECTS = 1000  # ids from here on are objects
IMAGE_END, IDS_END = "_leftImg8bit.png", "_gtFine_instanceIds.png"
THREADS = 8  # decoding runs outside of Python's lock; each holds one image


def read_cityscapes(images: str | Path, annotations: str | Path | None, *, name: str) -> Dataset:
    """Read a split: images in the order of their names, numbered from 1; objects with the ids of their file.

    Groups are crowd regions. Caravans, trailers and all other classes are left out; for the official evaluation, which
    ignores some of them, the evaluator reads the files again.

    Args:
        images: the split's folder in `leftImg8bit`, with a folder for each city.
        annotations: that in `gtFine`; None reads images alone.
        name: of the data set.

    Raises:
        DatasetError: a folder or file is missing or damaged, an image has no annotations or the other way round, or
            what is annotated is no id of Cityscapes.
    """
    images = Path(images)
    start = time.perf_counter()
    paths = sorted(_files(images, IMAGE_END))
    if not paths:
        raise DatasetError(f"{images}: no CITY/*{IMAGE_END} in there; unpack leftImg8bit_trainvaltest.zip")
    if annotations is not None:
        _check_pairs(images, paths, Path(annotations))
    folder = None if annotations is None else Path(annotations)

    def record(number_and_path: tuple[int, str]) -> ImageRecord:
        number, path = number_and_path
        if folder is None:
            return ImageRecord(number, images / path, read_image_size(images / path, orient=False), [])
        ids = read_ids(folder / (path.removesuffix(IMAGE_END) + IDS_END))
        return ImageRecord(number, images / path, ids.shape, objects(ids))

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        dataset = Dataset.from_records(
            pool.map(record, enumerate(paths, start=1)),
            class_names=tuple(CLASSES),
            category_ids=tuple(CLASSES.values()),
            name=name,
            image_root=images,
            annotated=annotations is not None,
        )
    seconds = time.perf_counter() - start
    logger.info("%s: %d images, %d objects, read in %.1f s", name, len(dataset), dataset.num_objects.sum(), seconds)
    return dataset


def ids_path(image: Path) -> Path:
    """The `instanceIds` file of an image in the official folders.

    Raises:
        DatasetError: the path is not that of an image of Cityscapes.
    """
    if not image.name.endswith(IMAGE_END) or len(image.parts) < 4 or image.parts[-4] != "leftImg8bit":
        raise DatasetError(f"{image} is no image of Cityscapes, leftImg8bit/SPLIT/CITY/*{IMAGE_END}")
    *root, _, split, city, file = image.parts
    return Path(*root, "gtFine", split, city, file.removesuffix(IMAGE_END) + IDS_END)


def read_ids(path: Path) -> np.ndarray:
    """An `instanceIds` file: uint16 (H, W).

    Raises:
        DatasetError: it is missing or damaged, has several channels, or values that are no ids of Cityscapes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}; unpack gtFine_trainvaltest.zip again") from None
    whole = data.rfind(b"IEND") >= 0  # OpenCV fills the missing part of a truncated file
    ids = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None
    if ids is None:
        raise DatasetError(f"{path}: not a whole PNG file ({len(data)} bytes); unpack gtFine_trainvaltest.zip again")
    if ids.ndim != 2 or ids.dtype != np.uint16:
        shape = f"{ids.dtype} with {1 if ids.ndim == 2 else ids.shape[2]} channels"
        raise DatasetError(f"{path}: the pixels are {shape}, but ids are uint16 with one channel")
    if ids.max(initial=0) >= (LAST_ID + 1) * OBJECTS or ((ids > LAST_ID) & (ids < OBJECTS)).any():
        wrong = (ids > LAST_ID) & (ids < OBJECTS) | (ids >= (LAST_ID + 1) * OBJECTS)
        y, x = np.argwhere(wrong)[0].tolist()
        raise DatasetError(
            f"{path}: the pixel at row {y}, column {x} is {ids[y, x]}, but an id is 0 to {LAST_ID}, or 1000 times that "
            "plus the number of an object"
        )
    return ids


def objects(ids: np.ndarray) -> list[ObjectRecord]:
    """The objects and groups (as crowd regions) of the eight classes in uint16 (H, W), ascending by id."""
    height, width = ids.shape
    down = ids.T.ravel()  # RLE runs down the columns
    places = np.flatnonzero(_COUNTS[down])
    order = np.argsort(down[places], kind="stable")  # by object, and within one as before
    places, values = places[order], down[places][order]
    if not len(places):
        return []
    starts = np.flatnonzero(np.diff(values, prepend=0))  # of the objects; no value is 0
    rles = _rles(places, starts, height * width)
    x, y = places // height, places % height
    boxes = np.stack(
        [
            np.minimum.reduceat(x, starts),
            np.minimum.reduceat(y, starts),
            np.maximum.reduceat(x, starts) + 1,
            np.maximum.reduceat(y, starts) + 1,
        ],
        axis=1,
    ).astype(np.float32)
    areas = np.diff(starts, append=len(places)).tolist()
    return [
        ObjectRecord(
            id=value,
            box=box,
            label=label_of(value if value < OBJECTS else value // OBJECTS),
            crowd=value < OBJECTS,
            area=float(area),
            segmentation={"size": [height, width], "counts": text},
        )
        for value, box, area, text in zip(values[starts].tolist(), boxes, areas, rles, strict=True)
    ]


def label_of(class_id: int) -> int:
    """0..7; -1 for any other class."""
    return _LABELS.get(class_id, -1)


_LABELS = {class_id: label for label, class_id in enumerate(CLASSES.values())}
_COUNTS = np.array([label_of(value if value < OBJECTS else value // OBJECTS) >= 0 for value in range(2**16)])


def _rles(places: np.ndarray, starts: np.ndarray, pixels: int) -> list[str]:
    """COCO's text for each object, whose pixels are places[starts[i]:starts[i + 1]], ascending in column order."""
    first = np.diff(places, prepend=-2) != 1
    first[starts] = True
    begin = np.flatnonzero(first)  # of the runs
    end = np.append(begin[1:], len(places)) - 1
    run_starts, run_stops = places[begin], places[end] + 1
    owner = np.searchsorted(starts, begin, side="right") - 1
    opens = np.diff(owner, prepend=-1) > 0  # the first run of an object
    before = np.where(opens, 0, np.concatenate([[0], run_stops[:-1]]))
    pairs = np.stack([run_starts - before, run_stops - run_starts], axis=1)  # background, object, background, ...
    last = np.append(np.flatnonzero(opens)[1:], len(begin)) - 1
    rest = pixels - run_stops[last]
    lengths = 2 * np.bincount(owner)
    ends = np.cumsum(lengths)
    counts = np.insert(pairs.ravel(), ends[rest > 0], rest[rest > 0])
    return compress_counts(counts, lengths + (rest > 0))


def _files(folder: Path, end: str) -> Iterable[str]:
    """CITY/FILE of all files with this end, below a split's folder."""
    if not folder.is_dir():
        return
    for city in os.scandir(folder):
        if city.is_dir():
            yield from (f"{city.name}/{file.name}" for file in os.scandir(city.path) if file.name.endswith(end))


def _check_pairs(images: Path, paths: list[str], annotations: Path) -> None:
    annotated = {path.removesuffix(IDS_END) for path in _files(annotations, IDS_END)}
    pictured = {path.removesuffix(IMAGE_END) for path in paths}
    if without := sorted(pictured - annotated):
        raise DatasetError(
            f"{annotations}: {len(without)} of {len(pictured)} images have no annotations, the first missing file is "
            f"{without[0]}{IDS_END}; unpack gtFine_trainvaltest.zip"
        )
    if without := sorted(annotated - pictured):
        raise DatasetError(
            f"{images}: {len(without)} of {len(annotated)} annotated images are missing, the first is "
            f"{without[0]}{IMAGE_END}; unpack leftImg8bit_trainvaltest.zip again"
        )


@dataclass(frozen=True)
class CityscapesSplit:
    """Registered under a name: a split below the data root."""

    name: str
    images: str
    annotations: str | None

    def __call__(self, root: Path) -> Dataset:
        """Raises DatasetError as `read_cityscapes`, and if a folder is not there."""
        for folder in filter(None, (self.images, self.annotations)):
            if not (root / folder).is_dir():
                raise DatasetError(
                    f"data set {self.name!r}: no folder {(root / folder).absolute()}; DATASETS.ROOT, or the "
                    f"environment variable MASKRCNN_DATASETS, must name the folder that has {folder} in it"
                )
        annotations = None if self.annotations is None else root / self.annotations
        return read_cityscapes(root / self.images, annotations, name=self.name)


for _name, (_images, *_annotations) in CITYSCAPES.data_sets.items():
    DATASETS.register(_name)(CityscapesSplit(_name, _images.path, _annotations[0].path if _annotations else None))
