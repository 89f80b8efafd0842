"""Finding what a user has unpacked of a known data set, and putting it where the data root wants it."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.data.folders import walk
from maskrcnn.data.layouts import Part, count_images
from maskrcnn.data.records import DatasetError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True)
class Unpacked:
    """What lies below a folder: the place of each part that is there, by the part's path, and all archives."""

    places: dict[str, Path]
    archives: tuple[Path, ...]


def find_parts(source: Path, parts: Sequence[Part]) -> Unpacked:
    """Look through all folders below `source`, links included.

    Of several folders with a part's name that with the most images counts (YOLO's labels have such names too), and of
    one inside the other the inner one; of several files the largest.
    """
    candidates: dict[str, list[Path]] = {part.path: [] for part in parts}
    archives: list[Path] = []
    for folder, names in walk(source.resolve()):
        for part in parts:
            place = folder if part.images else folder / Path(part.inside).name
            if _ends_with(place, part.inside) and (part.images or place.name in names):
                candidates[part.path].append(place)
        archives += [folder / name for name in names if name.lower().endswith(ARCHIVE_SUFFIXES)]
    places = {}
    for part in parts:
        weighed = [(_weight(place), len(place.parts), place) for place in candidates[part.path]]
        weight, _, place = max(weighed, default=(0, 0, source))
        if weight:
            places[part.path] = place
    return Unpacked(places, tuple(archives))


def advice(part: Part, unpacked: Unpacked) -> str:
    """What to do about a part that was not found, or only in part."""
    if place := unpacked.places.get(part.path):
        return f"{place} {part.lack(place)}; unpack {part.archive} again, from {part.address}"
    for archive in unpacked.archives:
        if archive.name == part.archive:
            return f"missing: {archive} is not unpacked"
    return f"missing: get {part.address} and unpack it"


def put_part(part: Part, found: Path | None, root: Path, *, copy: bool) -> str:
    """Link or copy a part into the data root, unless it is there.

    Args:
        found: where it was unpacked, or None.

    Returns:
        What was done: "linked to ...", "copied from ...", "there already"; or "" where there was nothing to link.

    Raises:
        DatasetError: what is in the root is incomplete, a dead link, or another one than what was found.
        OSError: the disk or the rights do not allow it.
    """
    target = root / part.path
    if os.path.lexists(target):
        _check(part, found, target)
        return "there already"
    if found is None or part.lack(found):
        return ""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            target.symlink_to(found.resolve(), target_is_directory=bool(part.images))
            return f"linked to {found.resolve()}"
        except (OSError, NotImplementedError):
            pass  # a disk without links, or Windows without the right to make them; if it is full, copying says so
    _copy(found, target)
    return f"copied from {found}"


def _check(part: Part, found: Path | None, target: Path) -> None:
    if not target.exists():
        raise DatasetError(f"{target} is a link to {os.readlink(target)}, where nothing is; remove the link")
    if lack := part.lack(target):
        raise DatasetError(f"{target} is there, but {lack}; remove it and run this again")
    if found is not None and not part.lack(found) and not _same(part, found, target):
        raise DatasetError(f"{target} is there and differs from {found}; nothing is overwritten: remove one of the two")


def _same(part: Part, found: Path, target: Path) -> bool:
    """Files by their bytes, folders by the names in them."""
    if found.samefile(target):
        return True
    if part.images:
        return _names(found) == _names(target)
    return filecmp.cmp(found, target, shallow=False)


def _names(folder: Path) -> set[str]:
    return {os.path.relpath(place / name, folder) for place, names in walk(folder) for name in names}


def _copy(found: Path, target: Path) -> None:
    """Whole or not at all: an interrupted copy would look like the data set."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if found.is_dir():
            shutil.copytree(found, unfinished)
        else:
            shutil.copy2(found, unfinished)
        unfinished.rename(target)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        else:
            unfinished.unlink(missing_ok=True)


def _weight(place: Path) -> int:
    if place.is_dir():
        return count_images(place)
    return place.stat().st_size if place.exists() else 0  # a dead link


def _ends_with(path: Path, inside: str) -> bool:
    names = Path(inside).parts
    return path.parts[-len(names) :] == names
