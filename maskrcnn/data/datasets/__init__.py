"""Data sets by name, or from one's own COCO-format file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from maskrcnn.data.datasets import shapes  # noqa: F401  registers its data sets
from maskrcnn.data.datasets.coco import read_coco
from maskrcnn.data.records import Dataset, DatasetError
from maskrcnn.registry import DATASETS

__all__ = ["dataset", "read_coco"]


def dataset(spec: str | Mapping[str, str], root: str | Path) -> Dataset:
    """The data set that an entry of DATASETS.TRAIN or TEST means.

    Args:
        spec: a registered name; or {JSON: annotation file, IMAGES: folder}, paths as seen from the current folder.
        root: the folder that the registered data sets lie in; a leading ~ is the home folder.

    Raises:
        ValueError: the name is not registered.
        DatasetError: the spec has other keys, or the data set has an error.
    """
    if isinstance(spec, str):
        return DATASETS.get(spec)(Path(root).expanduser())
    if set(spec) != {"JSON", "IMAGES"}:
        raise DatasetError(
            f"DATASETS: {dict(spec)} must have exactly the keys JSON (annotation file) and IMAGES (folder of images)"
        )
    return read_coco(Path(spec["JSON"]).expanduser(), Path(spec["IMAGES"]).expanduser())
