"""Data sets by name, or from one's own COCO-format file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from maskrcnn.data.checking import Policy
from maskrcnn.data.datasets import cityscapes, shapes  # noqa: F401  they register their data sets
from maskrcnn.data.datasets.coco import CocoLayout, read_coco
from maskrcnn.data.records import Dataset, DatasetError
from maskrcnn.registry import DATASETS

__all__ = ["dataset", "files_of", "read_coco"]


def dataset(spec: str | Mapping[str, str], root: str | Path, policy: Policy = "error") -> Dataset:
    """The data set that an entry of DATASETS.TRAIN or TEST means.

    Args:
        spec: a registered name; or {JSON: annotation file, IMAGES: folder}, paths as seen from the current folder.
        root: the folder that the registered data sets lie in; a leading ~ is the home folder.
        policy: what becomes of entries with an error, see `read_coco`; a registered function that makes its own
            records answers for them itself.

    Raises:
        ValueError: the name is not registered.
        DatasetError: the spec has other keys, or the data set has an error.
    """
    if isinstance(spec, str):
        reader = DATASETS.get(spec)
        folder = Path(root).expanduser()
        found: Dataset = reader(folder, policy) if isinstance(reader, CocoLayout) else reader(folder)
        return found
    if set(spec) != {"JSON", "IMAGES"}:
        raise DatasetError(
            f"DATASETS: {dict(spec)} must have exactly the keys JSON (annotation file) and IMAGES (folder of images)"
        )
    return read_coco(Path(spec["JSON"]).expanduser(), Path(spec["IMAGES"]).expanduser(), policy=policy)


def files_of(name: str, root: str | Path) -> tuple[Path, Path]:
    """The annotation file and the folder of images of a registered data set.

    Raises:
        ValueError: the name is not registered.
        DatasetError: the file is not there, or the data set is not read from one.
    """
    reader = DATASETS.get(name)
    if isinstance(reader, CocoLayout):
        return reader.files(Path(root).expanduser())
    found: Dataset = reader(Path(root).expanduser())
    if found.json_path is None or found.image_root is None:
        raise DatasetError(f"data set {name!r} is not read from a file in COCO format")
    return found.json_path, found.image_root
