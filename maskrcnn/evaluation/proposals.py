"""Proposals judged by the recall that they allow, and kept in a file for detectors that are trained on them."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from maskrcnn.atomic import WholeFile
from maskrcnn.data.records import Dataset, ImageRecord
from maskrcnn.distributed import from_main, gather_bytes_to_main
from maskrcnn.evaluation.coco import check_image_ids
from maskrcnn.evaluation.coco_figures import number
from maskrcnn.evaluation.tables import aligned
from maskrcnn.ops.boxes import pairwise_iou
from maskrcnn.registry import EVALUATORS
from maskrcnn.structures.instances import Proposals
from maskrcnn.structures.samples import Sample

logger = logging.getLogger(__name__)

PROPOSALS_FILE = "proposals.safetensors"
LIMITS = (100, 1000)  # proposals of an image
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # as the official tool writes 0.50:0.05:0.95
# By the area of an object, both ends included, as in COCO.
SIZES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}


@EVALUATORS.register("proposals")
class ProposalEvaluator:
    """COCO's average recall of proposals, whatever the classes of the objects, 0..100, or -1 without objects.

    `proposals/AR@100`, `ARs@100`, `ARm@100`, `ARl@100` and the same at 1000: the recall of the best 100 or 1000
    proposals of each image, as the mean over IoU 0.50:0.05:0.95, of all objects and by their size.

    Args:
        dataset: the images and their objects.
        output_dir: where the proposals are written, all of them, to `proposals.safetensors` (`data.proposal_files` has
            its form); None writes nothing.
        detections_per_image: of a detector; without meaning here.
    """

    outputs = Proposals
    metrics = tuple(f"proposals/AR{size}@{limit}" for limit in LIMITS for size in SIZES)

    def __init__(self, dataset: Dataset, output_dir: Path | None, detections_per_image: int = 100) -> None:
        check_image_ids(dataset)
        self.dataset, self.output_dir = dataset, output_dir
        self._index = {image_id: i for i, image_id in enumerate(dataset.image_ids.tolist())}
        self._blocks: dict[int | str, bytes] = {}
        self._figures = dict.fromkeys(self.metrics, -1.0)

    def process(self, samples: Sequence[Sample], outputs: Sequence[Proposals]) -> None:
        """Count what a batch's proposals find; of the proposals 20 bytes each are kept.

        Raises:
            ValueError: an image is not in the data set, or a box or score is not a finite number.
        """
        for sample, proposals in zip(samples, outputs, strict=True):
            if sample.image_id not in self._index:
                raise ValueError(
                    f"image id {sample.image_id} is not in the data set {self.dataset.name!r} that is being evaluated"
                )
            boxes, scores = proposals.boxes.detach().float().cpu(), proposals.scores.detach().float().cpu()
            if not (torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
                raise ValueError(
                    f"image {sample.image_id}: a proposal's box or score is not a finite number; the model has diverged"
                )
            order = scores.argsort(descending=True, stable=True)
            boxes, scores = boxes[order], scores[order]
            found = count_found(boxes[: LIMITS[-1]], self.dataset[self._index[sample.image_id]])
            kept = None if self.output_dir is None else (boxes.numpy(), scores.numpy())
            self._blocks[sample.image_id] = pickle.dumps((sample.image_id, found, kept))

    def result(self) -> dict[str, float]:
        """The figures over all ranks. The main process computes them and writes the file; the others wait for it."""
        blocks = gather_bytes_to_main(list(self._blocks.values()))
        self._blocks.clear()
        self._figures = from_main(lambda: self._compute(blocks))
        return dict(self._figures)

    def _compute(self, blocks: list[bytes]) -> dict[str, float]:
        found: dict[int | str, np.ndarray] = {}
        kept: dict[int | str, Any] = {}
        while blocks:  # each goes when it is read
            image_id, found[image_id], kept[image_id] = pickle.loads(blocks.pop())
        if len(found) < len(self.dataset):
            logger.warning(
                "%d of %d images were evaluated; the others count as images without proposals",
                len(found),
                len(self.dataset),
            )
        objects = sum((in_sizes(record)[1].sum(axis=1) for record in self.dataset), np.zeros(len(SIZES), np.int64))
        total = sum(found.values(), np.zeros((len(LIMITS), len(SIZES), len(THRESHOLDS)), np.int64))
        recall = total.mean(axis=2) / np.maximum(objects, 1)
        figures = np.where(objects > 0, 100 * recall, -1.0)
        if self.output_dir is not None:
            self._write(self.output_dir / PROPOSALS_FILE, kept)
        return dict(zip(self.metrics, figures.flatten().tolist(), strict=True))

    def _write(self, path: Path, kept: Mapping[int | str, tuple[np.ndarray, np.ndarray]]) -> None:
        try:
            path.unlink(missing_ok=True)  # of an earlier evaluation, which it is not to be taken for
            files = zip(self._index, self.dataset.paths, self.dataset.sizes.tolist(), strict=True)
            images = {i: (file.name, height, width) for i, file, (height, width) in files}
            write_proposals(path, {i: kept[i] for i in self._index if i in kept}, self.dataset.name, images=images)
            logger.info("the proposals are in %s", path)
        except OSError as error:  # a full disk: the figures are worth more than the file
            logger.error("the proposals could not be written to %s: %s; the figures do not need it", path, error)

    def table(self) -> str:
        """The last result as text: a row for each number of proposals."""
        rows = [
            [str(limit), *(number(self._figures[f"proposals/AR{size}@{limit}"]) for size in SIZES)] for limit in LIMITS
        ]
        return aligned([["proposals", *(f"AR{size}" for size in SIZES)], *rows])


def write_proposals(
    path: Path,
    proposals: Mapping[int | str, tuple[np.ndarray, np.ndarray]],
    name: str,
    *,
    images: Mapping[int | str, tuple[str, int, int]] | None = None,
) -> None:
    """Write the proposals of a data set as one file that is whole or not there; `data.proposal_files` reads it.

    Args:
        proposals: by image id, boxes float32 (P, 4) in pixels of the image's file, and scores float32 (P,).
        name: of the data set.
        images: by image id, name, height and width of its file, with which whoever reads the file compares its own.

    Raises:
        OSError: it could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = [len(scores) for _, scores in proposals.values()]
    arrays = {
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(boxes for boxes, _ in proposals.values())]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(scores for _, scores in proposals.values())]),
        "offsets": np.cumsum([0, *counts], dtype=np.int64),
    }
    facts = {"dataset": json.dumps(name), "image_ids": json.dumps(list(proposals))}
    if images is not None:
        facts["images"] = json.dumps([images[image_id] for image_id in proposals])
    with WholeFile(path) as part:
        save_file(arrays, part, facts)


def in_sizes(record: ImageRecord) -> tuple[np.ndarray, np.ndarray]:
    """The boxes (G, 4) of an image's objects without its crowd regions, and which belong to each of SIZES: (4, G)."""
    objects = [obj for obj in record.objects if not obj.crowd]
    boxes = np.array([obj.box for obj in objects], np.float32).reshape(-1, 4)
    areas = np.array([obj.area for obj in objects], np.float64)
    return boxes, np.array([(areas >= low) & (areas <= high) for low, high in SIZES.values()])


def count_found(boxes: torch.Tensor, record: ImageRecord) -> np.ndarray:
    """How many objects of an image its proposals find: int64 (limits, sizes, thresholds).

    Args:
        boxes: (P, 4), the best ones first.
    """
    objects, of_size = in_sizes(record)
    overlaps = pairwise_iou(boxes.double(), torch.from_numpy(objects).double()).numpy()
    ranks = finders(overlaps, of_size)
    return np.array([(ranks < min(limit, len(boxes))).sum(axis=2) for limit in LIMITS])


def finders(overlaps: np.ndarray, of_size: np.ndarray) -> np.ndarray:
    """Which proposal COCO's matching gives each object: int64 (sizes, thresholds, G), P for none.

    COCO goes through the proposals, the best first; each takes the free object that it overlaps most, at least by the
    threshold, of equals the last. What comes out is the one stable matching between proposals that prefer overlap and
    objects that prefer a better proposal. So the objects may ask instead, all at once: each asks the best proposal that
    it has not asked yet, which keeps the object that it overlaps most, until no object has to ask again.

    Args:
        overlaps: IoU (P, G).
        of_size: bool (sizes, G), the objects that count; the others are ignored, as crowd regions are.
    """
    count, num_objects = overlaps.shape
    order = np.arange(num_objects)
    padded = np.vstack([overlaps, np.zeros((1, num_objects))])  # row P: nobody
    nobody = np.full((len(THRESHOLDS), 1, num_objects), count)
    reaches = overlaps >= THRESHOLDS[:, None, None]
    upcoming = np.where(reaches, np.arange(count)[:, None], count)  # (T, P, G)
    upcoming = np.concatenate([np.minimum.accumulate(upcoming[:, ::-1], axis=1)[:, ::-1], nobody], axis=1)
    threshold = np.arange(len(THRESHOLDS))[:, None]
    asked = np.where(of_size[:, None], upcoming[:, 0], count)  # (sizes, T, G)
    while True:
        worth = padded[asked, order]
        better = (worth[..., None, :] > worth[..., None]) | ((worth[..., None, :] == worth[..., None]) & _after(order))
        rivals = (asked[..., None, :] == asked[..., None]) & better  # [..., g, h]: h stands in g's way
        refused = rivals.any(axis=-1) & (asked < count)
        if not refused.any():
            return asked
        asked = np.where(refused, upcoming[threshold, np.minimum(asked + 1, count), order], asked)


def _after(order: np.ndarray) -> np.ndarray:
    """(G, G): whether h comes after g."""
    return order[None, :] > order[:, None]
