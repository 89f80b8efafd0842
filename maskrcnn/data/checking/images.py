"""Image files: whether they are there, whole, and of the size that their records say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from maskrcnn.data.checking.policies import Entry, Found, replaced
from maskrcnn.data.checking.problems import show
from maskrcnn.data.images import DECODE_ERRORS, read_image
from maskrcnn.data.mappers import read_recorded
from maskrcnn.data.records import DatasetError, ImageRecord

SEED = 0  # of a sample, so that the same images are looked at again after a repair


def missing_files(images: Sequence[Entry], folder: Path) -> list[Found]:
    """By listing each folder once: a look at every file is slow on network disks."""
    listings: dict[Path, dict[str, list[str]]] = {}  # of each folder: the names by their lower-case form
    found = []
    for i, image in enumerate(images):
        file = folder / image["file_name"]
        if file.parent not in listings:
            listings[file.parent] = _listing(file.parent)
        near = listings[file.parent].get(file.name.lower(), [])
        # Looked at once more: a disk that ignores case, or links in the path, may have it under another name.
        if file.name in near or _is_file(file):
            continue
        shown = show(image["file_name"])
        if len(near) == 1:
            written = image["file_name"][: len(image["file_name"]) - len(file.name)] + near[0]
            repair = partial(replaced, key="file_name", value=written)
            found.append(Found(i, "file-name-case", f"'file_name' is {shown}, but on the disk is {near[0]!r}", repair))
        else:
            found.append(Found(i, "image-missing", f"there is no file {shown} in {folder}"))
    return found


def damaged_files(images: Sequence[Entry], folder: Path, count: int | None = None) -> Iterator[Found]:
    """Read image files whole, in threads.

    Args:
        images: entries whose file is there.
        count: how many, picked by a fixed seed; None: all.
    """
    chosen = sample(len(images), count)
    files = [folder / images[i]["file_name"] for i in chosen]
    sizes = [(images[i]["height"], images[i]["width"]) for i in chosen]
    for i, problem in zip(chosen, damages(files, sizes), strict=True):
        if problem:
            yield Found(i, *problem)


def sample(total: int, count: int | None) -> list[int]:
    """Indices below `total`, ascending: `count` of them by a fixed seed, or all."""
    if count is None or count >= total:
        return list(range(total))
    return sorted(np.random.default_rng(SEED).choice(total, count, replace=False).tolist())


def damages(files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, str] | None]:
    """Kind and message of what is wrong with each image file, or None; decoded in threads, in order.

    Args:
        sizes: (h, w) that the records say.
    """
    if not files:
        return
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(damage, files, sizes)
        yield from tqdm(results, "reading images", len(files), unit="img", disable=None, leave=False)


def damage(file: Path, size: tuple[int, int]) -> tuple[str, str] | None:
    """Kind and message of what is wrong with an image file, read as training reads it; or None."""
    try:
        read_recorded(ImageRecord(image_id=0, path=file, size=size, objects=[]))
        return None
    except DatasetError as error:
        message = str(error)
    try:
        found = read_image(file).shape[:2]
    except DatasetError:
        return "image-truncated" if _has_header(file) else "image-unreadable", message
    return (
        "image-mis-sized",
        f"{file} is {found[0]} high and {found[1]} wide, but 'height' and 'width' are {size[0]} and {size[1]}",
    )


def _has_header(file: Path) -> bool:
    try:
        with Image.open(file):
            return True
    except DECODE_ERRORS:
        return False


def some_file(folder: Path) -> str | None:
    """The first name in a folder; None if it has none."""
    return min(os.listdir(folder), default=None)


def _listing(folder: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                names.setdefault(entry.name.lower(), []).append(entry.name)
    except (OSError, ValueError):  # ValueError: a name with a null character
        return {}
    return names


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):  # too long a name; characters that no file name can have
        return False
