"""How hard the data set `shapes` is, by figures that need no training.

    python benchmarks/shapes_difficulty.py --root datasets

1. Mask AP of the ground truth itself after the bottleneck of a 28x28 mask head: each exact mask averaged over the 28x28
   cells of its box, pasted back bilinearly, cut at 0.5. Exact masks score 100; what is missing no such head can reach.
2. The share of objects (without crowds) whose box, that of the visible part, has an IoU above 0.1 with the box of
   another object of their category in the image.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as coco_mask
from torch import Tensor

from maskrcnn.data.datasets.shapes import generate
from maskrcnn.ops.paste import masks_to_rle

SIDE = 28
MIN_IOU = 0.1


def cell_shares(start: int, end: int, cells: int, pixels: int) -> Tensor:
    """Weights (cells, pixels) that average pixels over equal cells of [start, end), by the length of the overlap."""
    edges = torch.linspace(start, end, cells + 1, dtype=torch.float64)
    pixel = torch.arange(pixels, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return overlap.clamp(min=0) * cells / (end - start)


def through_mask_head(annotation: dict[str, Any], size: tuple[int, int], side: int) -> dict[str, Any]:
    """The RLE of an object after its mask, cropped to its box, was held in `side` x `side` soft cells."""
    mask = torch.from_numpy(coco_mask.decode(annotation["rle"])).double()
    x, y, w, h = annotation["bbox"]
    small = cell_shares(y, y + h, side, size[0]) @ mask @ cell_shares(x, x + w, side, size[1]).T
    box = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)
    return masks_to_rle(small[None].float(), box, size)[0]


def mask_ap(coco: COCO, side: int | None) -> dict[str, float]:
    """COCO mask AP, AP of small, medium, large, and of each category, of the ground truth as detections of score 1.

    Args:
        side: of the square soft mask that each object is squeezed through; None: exact masks.
    """
    results = []
    for a in coco.loadAnns(coco.getAnnIds(iscrowd=0)):
        image = coco.imgs[a["image_id"]]
        a["rle"] = coco.annToRLE(a)
        rle = a["rle"] if side is None else through_mask_head(a, (image["height"], image["width"]), side)
        results.append({"image_id": a["image_id"], "category_id": a["category_id"], "segmentation": rle, "score": 1.0})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval_faster(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap = {name: 100 * float(evaluation.stats[i]) for name, i in (("AP", 0), ("APs", 3), ("APm", 4), ("APl", 5))}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, categories)
    for k, category in enumerate(coco.loadCats(evaluation.params.catIds)):
        values = precision[:, :, k]
        ap[category["name"]] = 100 * float(values[values > -1].mean()) if (values > -1).any() else float("nan")
    return ap


def overlapping_share(coco: COCO) -> float:
    """Share of the objects whose box has an IoU above `MIN_IOU` with another of their category."""
    overlapping = []
    for image in coco.getImgIds():
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image], iscrowd=0))
        if not annotations:
            continue
        boxes, labels = ([a[key] for a in annotations] for key in ("bbox", "category_id"))
        iou = coco_mask.iou(np.array(boxes, float), np.array(boxes, float), [0] * len(boxes))
        same = np.equal.outer(labels, labels) & ~np.eye(len(labels), dtype=bool)
        overlapping += (same & (iou > MIN_IOU)).any(axis=1).tolist()
    return float(np.mean(overlapping))


def describe(coco: COCO) -> str:
    """One paragraph of counts: sizes, objects per image, kinds of annotation."""
    annotations = coco.loadAnns(coco.getAnnIds(iscrowd=0))
    area = np.array([a["area"] for a in annotations])
    parts = [len(a["segmentation"]) if isinstance(a["segmentation"], list) else 0 for a in annotations]
    kinds = Counter("RLE" if n == 0 else "one polygon" if n == 1 else "several polygons" for n in parts)
    shares = {"small": area < 32**2, "medium": (area >= 32**2) & (area < 96**2), "large": area >= 96**2}
    visibility = Counter(v for a in annotations for v in a.get("keypoints", [])[2::3] if a["num_keypoints"])
    crowds = len(coco.getAnnIds(iscrowd=1))
    per_image = [len(coco.getAnnIds(imgIds=[i], iscrowd=0)) for i in coco.getImgIds()]
    return (
        f"{len(per_image)} images, {len(annotations)} objects, {np.mean(per_image):.2f} an image "
        f"(0 to {max(per_image)}; {per_image.count(0)} images without), {crowds} crowds\n"
        + ", ".join(f"{name} {share.mean():.1%}" for name, share in shares.items())
        + "\n"
        + ", ".join(f"{kind} {n / len(parts):.1%}" for kind, n in kinds.most_common())
        + "\nkeypoints: "
        + ", ".join(f"v={v} {visibility[v]}" for v in (0, 1, 2))
    )


def read(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("datasets"))
    parser.add_argument("--split", choices=["train", "val"], default="val")
    args = parser.parse_args()
    coco = read(generate(args.root) / "annotations" / f"instances_{args.split}.json")
    print(describe(coco))
    exact, coarse = mask_ap(coco, None), mask_ap(coco, SIDE)
    print(f"mask AP of exact masks {exact['AP']:.1f}, through {SIDE}x{SIDE} {coarse['AP']:.1f}")
    print("  " + ", ".join(f"{name} {value:.1f}" for name, value in coarse.items()))
    print(f"objects that overlap another of their category (box IoU > {MIN_IOU}): {overlapping_share(coco):.1%}")


if __name__ == "__main__":
    main()
