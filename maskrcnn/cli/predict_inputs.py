"""What `maskrcnn predict` reads: images, folders, patterns and videos, and the name that each is drawn under."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from maskrcnn.data.images import IMAGE_SUFFIXES, read_image
from maskrcnn.data.mappers import read_recorded
from maskrcnn.data.records import DatasetError, ImageRecord
from maskrcnn.data.videos import Video

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"))  # others are drawn as .png
VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"))

Job = tuple[Path, Path | None]  # a file, and the picture or video to draw of it


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """An image, or one frame of a video.

    pixels uint8 (H, W, 3) RGB; image_id as the user's annotation file has it, or None; number, counted from 0, and fps
    of a video's frames.
    """

    source: Path
    target: Path | None
    pixels: np.ndarray
    image_id: int | str | None = None
    number: int = 0
    fps: float | None = None


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def plan(inputs: Sequence[Path], output: Path | None) -> list[Job]:
    """Each file once, in order, with what to draw of it: its own name, and below the output the folders it came from;
    where two would share a name, the later one gets that of its folder, or a number, in front.

    Raises:
        ValueError: a pattern matches no file, or a picture would overwrite its image.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for source, relative in _files(inputs, output):
        found.setdefault(source.resolve(), (source, relative))
    if output is None:
        return [(source, None) for source, _ in found.values()]
    targets: dict[Path, Path] = {}
    for resolved, (source, relative) in found.items():
        names = _names(output / relative.parent, resolved.parent.name, _drawn_name(relative))
        targets[next(name for name in names if name not in targets)] = source
    if overwritten := found.keys() & {target.resolve() for target in targets}:
        raise ValueError(f"--output {output} would overwrite {min(overwritten)}; name another folder")
    return [(source, target) for target, source in targets.items()]


def read_image_ids(path: Path) -> dict[str, ImageRecord]:
    """The images of a COCO file, by file name.

    Raises:
        DatasetError: it is no such file.
    """
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        sizes = [(int(image["height"]), int(image["width"])) for image in images]
        return {
            image["file_name"]: ImageRecord(image["id"], path, size, [])
            for image, size in zip(images, sizes, strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: no COCO file with 'images', each with id, file_name, height and width: {error!r}"
        ) from error


def frames(
    jobs: Iterable[Job], known: Mapping[str, ImageRecord] | None, report: Callable[[Path, Exception], None]
) -> Iterator[Frame]:
    """All images and the frames of all videos, read as they are asked for; what cannot be read is reported instead.

    Args:
        known: images by file name, which say the id and the frame that each was annotated in; None, if nobody asks.
    """
    for source, target in jobs:
        try:
            if is_video(source):
                video = Video(source)
                for number, pixels in enumerate(video):
                    yield Frame(source, target, pixels, number=number, fps=video.fps)
            elif known is None:
                yield Frame(source, target, read_image(source))
            else:
                record = _record_of(source, known)
                yield Frame(source, target, read_recorded(record), image_id=record.image_id)
        except (OSError, ValueError) as error:
            report(source, error)


def count_frames(jobs: Iterable[Job]) -> int:
    """About how many frames there are: videos say it themselves, and not always rightly."""
    total = 0
    for source, _ in jobs:
        try:
            total += Video(source).num_frames if is_video(source) else 1
        except DatasetError:
            continue  # said when its turn comes
    return total


def _files(inputs: Sequence[Path], output: Path | None) -> Iterator[tuple[Path, Path]]:
    """The files with their paths below the folder that was named. Pictures of an earlier run are none."""
    for path in inputs:
        variable = [i for i, part in enumerate(path.parts) if any(c in part for c in "*?[")]
        if path.is_dir():
            root, files = path, path.rglob("*")
        elif variable and not path.exists():
            root = Path(*path.parts[: variable[0]])
            files = root.glob("/".join(path.parts[variable[0] :]))
        else:
            yield path, Path(path.name)
            continue
        own = output is not None and output.resolve() != root.resolve()
        some = False
        for file in sorted(files):
            if file.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES or not file.is_file():
                continue
            some = True
            if not (own and output is not None and output.resolve() in file.resolve().parents):
                yield file, file.relative_to(root)
        if not some and root != path:
            raise ValueError(f"no image or video matches {path}")


def _drawn_name(path: Path) -> str:
    if is_video(path):
        return path.name if path.suffix.lower() == ".mp4" else f"{path.name}.mp4"
    return path.name if path.suffix.lower() in PICTURE_SUFFIXES else f"{path.name}.png"


def _names(folder: Path, origin: str, name: str) -> Iterator[Path]:
    yield folder / name
    yield folder / f"{origin}_{name}"
    number = 2
    while True:
        yield folder / f"{origin}_{number}_{name}"
        number += 1


def _record_of(source: Path, known: Mapping[str, ImageRecord]) -> ImageRecord:
    """The record whose file name, with its folders, is what the path ends with."""
    parts = source.absolute().parts
    for i in range(len(parts)):
        if (name := "/".join(parts[i:])) in known:
            return replace(known[name], path=source)
    raise ValueError(f"{source}: the file of --image-ids has no image of this name")
