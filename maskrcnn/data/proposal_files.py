"""Files of proposals: one for each data set, checked whole before anything starts.

A safetensors file with `boxes` float32 (P, 4), absolute XYXY in pixels of the image files; `scores` float32 (P,); and
`offsets` int64 (N + 1,): the proposals of image i are offsets[i]:offsets[i + 1]. The metadata are JSON: `dataset`, the
name of the data set; `image_ids`, N of them; and, unless left out, `images`, the name, height and width of each image's
file, by which they are known again. `maskrcnn.evaluation.proposals` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from maskrcnn.data.proposals import StoredProposals
from maskrcnn.data.records import Dataset, DatasetError

SHAPES = {"boxes": ("float32", 2), "scores": ("float32", 1), "offsets": ("int64", 1)}  # and number of axes


def read_proposals(path: Path, dataset: Dataset) -> StoredProposals:
    """The proposals of a data set's images, in its order.

    Raises:
        DatasetError: there is no such file, it is no file of proposals, or one of another data set; an image has no
            entry in it.
    """
    arrays, name, image_ids, images = _read(path)
    if name != dataset.name:
        raise DatasetError(f"{path}: its 'dataset' is {name!r}, but the images are those of {dataset.name!r}")
    boxes, scores, offsets = (arrays[key] for key in SHAPES)
    found = {"boxes": boxes.shape, "scores": scores.shape, "offsets": offsets.shape}
    for key, wanted in {"boxes": (len(boxes), 4), "scores": (len(boxes),), "offsets": (len(image_ids) + 1,)}.items():
        if found[key] != wanted:
            raise DatasetError(
                f"{path}: {key!r} has shape {found[key]}; expected {wanted}, of {len(boxes)} boxes of "
                f"{len(image_ids)} images"
            )
    if offsets[0] != 0 or offsets[-1] != len(boxes) or (np.diff(offsets) < 0).any():
        raise DatasetError(
            f"{path}: 'offsets' goes from {offsets[0]} to {offsets[-1]}; expected numbers that rise from 0 to the "
            f"{len(boxes)} boxes"
        )
    good = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    if not good.all():
        row = int(good.argmin())
        raise DatasetError(
            f"{path}: row {row} is {boxes[row].tolist()} in 'boxes' and {scores[row]} in 'scores'; expected finite "
            "numbers x1, y1, x2, y2 with x1 <= x2 and y1 <= y2"
        )
    positions = {image_id: i for i, image_id in enumerate(image_ids)}
    order = [positions.get(image_id, -1) for image_id in dataset.image_ids.tolist()]
    if missing := order.count(-1):
        first = dataset.image_ids[order.index(-1)]
        raise DatasetError(
            f"{path}: 'image_ids' lacks {missing} of the {len(dataset)} images of {dataset.source}, the first being "
            f"{first}; make the file for all of them (an image may have no boxes, but not be left out)"
        )
    _check_images(path, dataset, [images[i] for i in order] if images else None)
    return StoredProposals(boxes, scores, np.stack([offsets[:-1][order], offsets[1:][order]], axis=1))


def _check_images(path: Path, dataset: Dataset, images: list[Any] | None) -> None:
    """Raises DatasetError: an image of the data set is another file than that of its id whose proposals these are."""
    if images is None:
        return
    for i, (file, size, theirs) in enumerate(zip(dataset.paths, dataset.sizes.tolist(), images, strict=True)):
        if theirs != [file.name, *size]:
            raise DatasetError(
                f"{path}: image {dataset.image_ids[i]} was {_image(theirs)}, but in {dataset.source} it is "
                f"{_image([file.name, *size])}; are these the proposals of another data set of the same name?"
            )


def _image(facts: list[Any]) -> str:
    name, height, width = facts
    return f"{name!r} of {width} x {height} pixels"


def _read(path: Path) -> tuple[dict[str, np.ndarray], str, list[int | str], list[list[Any]] | None]:
    """The arrays, the data set's name, the image ids and the images, whose kinds are as they should be."""
    if not path.is_file():
        raise DatasetError(
            f"no file of proposals {path}; evaluating an RPN with TEST.EVALUATORS [proposals] writes one for each data "
            "set of DATASETS.TEST"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if lacking := [key for key in SHAPES if key not in file.keys()]:  # noqa: SIM118 - it is no mapping
                raise DatasetError(f"{path} has no {', '.join(lacking)}: it is no file of proposals")
            arrays = {key: file.get_tensor(key) for key in SHAPES}
    except (safetensors.SafetensorError, OSError) as error:
        raise DatasetError(f"{path} is truncated, or no safetensors file ({error})") from error
    name, image_ids = (_fact(path, metadata, key) for key in ("dataset", "image_ids"))
    images = _fact(path, metadata, "images") if "images" in metadata else None
    if not isinstance(image_ids, list):
        raise DatasetError(f"{path}: 'image_ids' is {image_ids!r}; expected a list")
    if odd := [i for i in image_ids if not isinstance(i, (int, str))]:
        raise DatasetError(f"{path}: {odd[0]!r} is one of 'image_ids'; expected a list of whole numbers or of texts")
    if images is not None:
        fine = isinstance(images, list) and len(images) == len(image_ids)
        if not fine or not all(isinstance(image, list) and len(image) == 3 for image in images):
            raise DatasetError(
                f"{path}: 'images' in its metadata is no list of [name, height, width] for each of the "
                f"{len(image_ids)} images; mend it, or leave it out"
            )
    for key, (dtype, axes) in SHAPES.items():
        if str(arrays[key].dtype) != dtype or arrays[key].ndim != axes:
            raise DatasetError(
                f"{path}: {key!r} is {arrays[key].dtype} of shape {arrays[key].shape}; expected {dtype} with {axes} "
                "axes"
            )
    return arrays, name, image_ids, images


def _fact(path: Path, metadata: Mapping[str, str], key: str) -> Any:
    if key not in metadata:
        raise DatasetError(f"{path} has no {key!r} in its metadata: it is no file of proposals")
    try:
        return json.loads(metadata[key])
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: {key!r} in its metadata is {metadata[key][:50]!r}, which is no JSON") from error
