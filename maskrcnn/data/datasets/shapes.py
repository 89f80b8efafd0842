"""`shapes_train` and `shapes_val`: built-in synthetic images, drawn on first use and read like any COCO data set.

What is in them and why: docs/shapes.md. Nothing is downloaded. On disk, under the data root:

    shapes/train/000001.jpg ...                         shapes/val/100001.jpg ...
    shapes/annotations/instances_{train,val}.json       boxes, masks, keypoints; "semantic_categories"
    shapes/semantic_{train,val}/000001.png ...          uint8 (H, W), ids of "semantic_categories"
    shapes/stamp.json                                   what it was drawn with
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import filelock
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from maskrcnn.data.datasets.coco import read_coco
from maskrcnn.data.datasets.shapes_drawing import STUFF, Placed, Scene, draw_scene, photograph, rasterise
from maskrcnn.data.datasets.shapes_figures import CATEGORIES, KEYPOINTS, SKELETON, Array
from maskrcnn.data.records import Dataset, DatasetError
from maskrcnn.registry import DATASETS

VERSION = "1"  # raise it with every change of what is drawn or written: a data set of another version is drawn anew
TRAIN_IMAGES, VAL_IMAGES, SEED = 2000, 300, 0
SPLITS = ("train", "val")
JPEG_QUALITY = 95
SMALL = 32**2  # as in COCO, people of less than this area have no keypoints labelled
MAX_CORNERS = 500  # of a traced outline; beyond it RLE is the shorter form

THING_OF = {c.id: len(STUFF) + i for i, c in enumerate(CATEGORIES)}  # category id -> semantic id


@DATASETS.register("shapes_train")
def shapes_train(root: Path) -> Dataset:
    return _read(generate(root), "train")


@DATASETS.register("shapes_val")
def shapes_val(root: Path) -> Dataset:
    return _read(generate(root), "val")


def _read(folder: Path, split: str) -> Dataset:
    return read_coco(folder / "annotations" / f"instances_{split}.json", folder / split)


def generate(
    root: Path, *, train: int = TRAIN_IMAGES, val: int = VAL_IMAGES, seed: int = SEED, workers: int | None = None
) -> Path:
    """Draw the data set into `root/shapes`, unless it is there already, drawn with the same numbers.

    An image depends on (seed, split, index) alone. Other processes wait at a lock; a run that is killed leaves only a
    folder `root/.shapes-*`, which the next one removes. A script that is itself the main module needs the usual
    `if __name__ == "__main__":` around this, since the workers are spawned.

    Args:
        train, val: images per split.
        workers: processes; None: one per core, up to 8; 1: this process alone.

    Returns:
        `root/shapes`.

    Raises:
        DatasetError: `root/shapes` is there but is not ours to replace.
    """
    root = Path(root)
    folder, stamp = root / "shapes", {"version": VERSION, "train": train, "val": val, "seed": seed}
    if _stamp_of(folder) == stamp:
        return folder
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # else it would wait for its parent, for ever
        raise RuntimeError(
            "shapes is drawn by spawned processes: put the script's code under if __name__ == '__main__'"
        )
    root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(root / ".shapes.lock"):
        if _stamp_of(folder) == stamp:  # another process drew it meanwhile
            return folder
        if folder.exists() and _stamp_of(folder) is None:
            raise DatasetError(f"{folder} has no stamp.json, so it is not the built-in data set; move it elsewhere")
        for abandoned in root.glob(".shapes-*"):
            shutil.rmtree(abandoned)
        fresh = root / f".shapes-{uuid.uuid4().hex}"
        _write(fresh, {"train": train, "val": val}, seed, workers or min(os.cpu_count() or 1, 8))
        (fresh / "stamp.json").write_text(json.dumps(stamp))
        if folder.exists():
            folder.rename(root / f".shapes-{uuid.uuid4().hex}-old")
        fresh.rename(folder)
        for outdated in root.glob(".shapes-*-old"):
            shutil.rmtree(outdated)
    return folder


def _stamp_of(folder: Path) -> dict[str, Any] | None:
    try:
        stamp: dict[str, Any] = json.loads((folder / "stamp.json").read_text())
    except FileNotFoundError:
        return None
    return stamp


def _write(folder: Path, counts: dict[str, int], seed: int, workers: int) -> None:
    for split in SPLITS:
        for name in (split, f"semantic_{split}", "annotations"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = [(split, index) for split in SPLITS for index in range(counts[split])]
    drawn = _map(partial(write_image, folder, seed), jobs, workers)
    done = tqdm(drawn, "drawing shapes", len(jobs), unit="image", disable=None)
    written: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {split: [] for split in SPLITS}
    for (split, _), image_and_annotations in zip(jobs, done, strict=True):
        written[split].append(image_and_annotations)
    for split in SPLITS:
        annotations = [a for _, objects in written[split] for a in objects]
        content = {
            "info": {"description": f"maskrcnn shapes, {split}", "version": VERSION, "seed": seed},
            "images": [image for image, _ in written[split]],
            "annotations": [{"id": i + 1} | a for i, a in enumerate(annotations)],
            **category_tables(),
        }
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content, separators=(",", ":")))


def _map(job: Any, jobs: list[tuple[str, int]], workers: int) -> Iterator[Any]:
    if workers == 1:
        yield from map(job, jobs)
        return
    # spawned: forking a process that runs OpenMP threads can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(job, jobs, chunksize=8)


def category_tables() -> dict[str, Any]:
    """The JSON's lists of categories: COCO's, and what the semantic maps hold."""
    categories: list[dict[str, Any]] = [{"id": c.id, "name": c.name, "supercategory": "shape"} for c in CATEGORIES]
    categories[0] |= {"supercategory": "person", "keypoints": KEYPOINTS, "skeleton": SKELETON}
    semantic = [{"id": i, "name": name, "isthing": 0} for i, (name, _) in enumerate(STUFF)]
    semantic += [{"id": THING_OF[c.id], "name": c.name, "isthing": 1} for c in CATEGORIES]
    return {"categories": categories, "semantic_categories": semantic}


def write_image(folder: Path, seed: int, job: tuple[str, int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw and write one image and its semantic map; returns its entries for the JSON, the annotations without ids."""
    split, index = job
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene = draw_scene(rng)
    image_id = SPLITS.index(split) * 100_000 + index + 1
    name = f"{image_id:06d}.jpg"
    picture = photograph(scene, rng)[..., ::-1]
    for path, pixels, options in (
        (folder / split / name, picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
        (folder / f"semantic_{split}" / f"{image_id:06d}.png", semantic_map(scene), []),
    ):
        if not cv2.imwrite(str(path), pixels, options):
            raise OSError(f"{path} could not be written: is the disk full?")
    h, w = scene.owner.shape
    return {"id": image_id, "file_name": name, "height": h, "width": w}, annotate(scene, image_id)


def semantic_map(scene: Scene) -> Array:
    """uint8 (H, W): each pixel's id of `semantic_categories`."""
    things = np.array([THING_OF[o.category.id] for o in scene.objects] + [0], np.uint8)  # the last for owner -1
    return np.where(scene.owner >= 0, things[scene.owner], scene.stuff)


def annotate(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    """The objects' COCO annotations. A mask is what is visible of its object, to the pixel."""
    annotations = []
    for index, placed in enumerate(scene.objects):
        mask = scene.owner == index
        if placed.crowd:
            mask = crowd_region(scene.owner, index)
        rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
        x, y, area = columns[0], rows[0], int(mask.sum())
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": placed.category.id,
            "bbox": [x, y, columns[-1] + 1 - x, rows[-1] + 1 - y],
            "area": area,
            "iscrowd": int(placed.crowd),
            "segmentation": counts_of(mask) if placed.crowd else segmentation_of(mask, placed.outline),
        }
        if placed.keypoints is not None or (placed.crowd and placed.category.name == "person"):
            entry |= keypoints_of(placed, index, scene.owner, labelled=not placed.crowd and area >= SMALL)
        annotations.append(entry)
    return annotations


def crowd_region(owner: Array, index: int) -> Array:
    """A crowd's figures and the gaps between them, but no pixel of another object: bool (H, W)."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))
    region = cv2.morphologyEx((owner == index).astype(np.uint8), cv2.MORPH_CLOSE, disc)
    mask: Array = (region > 0) & ((owner == index) | (owner < 0))
    return mask


def keypoints_of(placed: Placed, index: int, owner: Array, *, labelled: bool) -> dict[str, Any]:
    """COCO's triples, in whole pixels: 0 unlabelled (outside the image), 1 hidden by another object, 2 visible."""
    triples = np.zeros((len(KEYPOINTS), 3), int)
    if labelled and placed.keypoints is not None:
        xy = np.floor(placed.keypoints).astype(int)
        inside = ((xy >= 0) & (xy < owner.shape[::-1])).all(axis=1)
        seen = owner[tuple(xy[inside, ::-1].T)] == index
        triples[inside] = np.column_stack([xy[inside], 1 + seen])
    return {"keypoints": triples.ravel().tolist(), "num_keypoints": int((triples[:, 2] > 0).sum())}


def segmentation_of(mask: Array, outline: Array | None) -> list[list[float]] | dict[str, Any]:
    """Polygons that COCO's tools decode to exactly this mask, where there are any of moderate length, else RLE.

    Args:
        mask: bool (H, W).
        outline: the ring that the object was drawn from, shorter than a traced one and right if nothing hides it.
    """
    candidates = [] if outline is None else [[outline.ravel().tolist()]]
    traced = trace(mask)
    if sum(map(len, traced)) <= 2 * MAX_CORNERS:
        candidates.append(traced)
    for polygons in candidates:
        if (rasterise(polygons, mask.shape) == mask).all():
            return polygons
    return encode(mask)


def encode(mask: Array) -> dict[str, Any]:
    """Compressed COCO RLE with text counts."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def counts_of(mask: Array) -> dict[str, Any]:
    """Uncompressed COCO RLE, the form that COCO's crowds have: runs of 0 and 1 in turn, column by column."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def trace(mask: Array) -> list[list[float]]:
    """The borders of a mask along its pixel edges: flat rings [x, y, x, y, ...] of whole numbers.

    Every corner ends one horizontal and one vertical border, and along a row or column of corners borders run from
    every other corner to the next. Where two pixels meet at a corner only, it counts twice. A hole gives a ring too.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    m = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.int8)
    square = m[:-1, :-1] + m[1:, 1:] - m[:-1, 1:] - m[1:, :-1]  # 0: no corner; +-2: two pixels that only touch
    y, x = np.nonzero(square)
    y, x = (np.repeat(at, np.abs(square[y, x])) for at in (y, x))
    twin = np.arange(len(y))

    def partners(order: Array) -> list[int]:
        """The corner at the border's other end, of each corner; `order` sorts them along the borders."""
        partner = np.empty_like(twin)
        partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
        return partner.tolist()

    along_row, along_column = partners(np.lexsort((twin, x, y))), partners(np.lexsort((twin, y, x)))
    xs, ys = (x + left).tolist(), (y + top).tolist()
    rings, todo = [], [True] * len(xs)
    for start in range(len(xs)):
        ring: list[float] = []
        corner = start
        while todo[corner]:
            after = along_row[corner]
            todo[corner] = todo[after] = False
            ring += [xs[corner], ys[corner], xs[after], ys[after]]
            corner = along_column[after]
        if ring:
            rings.append(ring)
    return rings
