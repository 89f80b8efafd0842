"""Two data sets that are to be used together: one to train on, one to evaluate on."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from maskrcnn.data.checking.problems import Problem, name_of, show
from maskrcnn.data.checking.report import Report

TAIL = 4096  # bytes at the end of a file that are compared before all of it is


def compare(train: Report, train_folder: Path | None, val: Report, val_folder: Path | None) -> Report:
    """The report on the second file with what is wrong between the two added; of contents that could be read."""
    if train.content is None or val.content is None:
        return val
    problems = []
    classes = [
        [category["name"] for category in sorted(content["categories"], key=lambda category: category["id"])]
        for content in (train.content, val.content)
    ]
    if difference := different_classes(*classes):
        message = f"its classes are not those of {train.file}: {difference}"
        problems.append(Problem("categories-differ", val.file, "", message))
    if train_folder is not None and val_folder is not None:
        images = val.content["images"]
        paths = [
            [folder / image["file_name"] for image in content["images"]]
            for folder, content in ((train_folder, train.content), (val_folder, val.content))
        ]
        for i, twin in shared_images(*paths, by_content=True):
            message = f"{show(images[i]['file_name'])} is the same image as {twin} of {train.file}"
            problems.append(Problem("shared-image", val.file, name_of("image", images[i]), message))
    return replace(val, problems=(*val.problems, *problems))


def different_classes(names: Sequence[str], other: Sequence[str]) -> str | None:
    """How class names, by label, differ from other ones; None if they do not."""
    if tuple(names) == tuple(other):
        return None
    for i, (a, b) in enumerate(zip(names, other, strict=False)):
        if a != b:
            return f"class {i} is {show(a)} in the one, {show(b)} in the other"
    return f"{len(names)} and {len(other)} of them"


def shared_images(train: Sequence[Path], val: Sequence[Path], *, by_content: bool) -> Iterator[tuple[int, Path]]:
    """Images of the second list that are in the first too: their index, and the file in the first.

    Args:
        by_content: compare all files of equal size, whatever they are called; else only files of equal name. A name
            alone says little: many data sets number the images of each of their parts from 1.
    """
    paths = {os.path.abspath(path) for path in train}
    names = {path.name for path in val}
    by_size: dict[int, list[Path]] = defaultdict(list)
    sizes = [_size(path) for path in val]
    wanted = set(sizes) - {None}
    for path in train:
        if (by_content or path.name in names) and (size := _size(path)) in wanted and size is not None:
            by_size[size].append(path)
    digests: dict[tuple[Path, bool], bytes] = {}
    for i, (path, size) in enumerate(zip(val, sizes, strict=True)):
        if os.path.abspath(path) in paths:
            yield i, path
            continue
        candidates = by_size.get(size, []) if size is not None else []
        if not by_content:
            candidates = [other for other in candidates if other.name == path.name]
        for other in candidates:
            if all(_digest(path, digests, whole) == _digest(other, digests, whole) for whole in (False, True)):
                yield i, other
                break


def _size(path: Path) -> int | None:
    """In bytes; None if it is not there, or empty."""
    try:
        return os.stat(path).st_size or None
    except (OSError, ValueError):
        return None


def _digest(path: Path, known: dict[tuple[Path, bool], bytes], whole: bool) -> bytes:
    if (path, whole) not in known:
        try:
            with path.open("rb") as file:
                if not whole:
                    file.seek(max(os.fstat(file.fileno()).st_size - TAIL, 0))
                known[path, whole] = hashlib.blake2b(file.read()).digest()
        except OSError:
            known[path, whole] = os.fsencode(path)  # equal to no other
    return known[path, whole]
