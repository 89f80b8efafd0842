"""Mask R-CNN and its relatives against torchvision's: equal weights, equal inputs, equal answers.

    python benchmarks/mask_rcnn.py [--models r50_fpn keypoint] [--parts inference training] [--precisions fp32 bf16]
                                   [--compile] [--rounds 5]

Inference: one image of 800x1066, 100 detections, masks pasted. Training: two images of 480x640 with 10 objects each,
forward, backward and the SGD step. All contenders in one process, in turns, on 2 threads (OMP_NUM_THREADS changes it):
torchvision's model as it comes; the same model with what anybody can do to it ("plain means": channels_last, for
inference its frozen norms folded, autocast for bf16); and ours. torchvision has no C4 model: ours stands alone there.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from machine import describe, in_turns, memory_peak
from peers import calibrate, keypoint_rcnn, mask_rcnn, plain_means
from torch import Tensor, nn
from torchvision.models import resnet101, resnext101_32x8d
from torchvision.models.detection import FasterRCNN

import maskrcnn
from maskrcnn.checkpoint.importers import recognise
from maskrcnn.engine.inference import prepare_inference
from maskrcnn.engine.precision import choose_precision
from maskrcnn.ops.boxes import pairwise_iou
from maskrcnn.ops.paste import paste_masks
from maskrcnn.structures import Detections, Instances, Sample
from maskrcnn.structures.masks import BitmapMasks

CPU = torch.device("cpu")
CONFIG = "mask_rcnn/mask_rcnn_r50_fpn_noaug_1x_coco.yaml"
C4_CONFIG = "mask_rcnn/mask_rcnn_r50_c4_1x_coco.yaml"
# Our config and torchvision's model; its builders know R-50 alone, but its parts take the other trunks.
MODELS: dict[str, tuple[str, Callable[..., FasterRCNN]]] = {
    "r50_fpn": (CONFIG, mask_rcnn),
    "r101_fpn": ("mask_rcnn/mask_rcnn_r101_fpn_2x_coco.yaml", partial(mask_rcnn, trunk=resnet101)),
    "x101_32x8d_fpn": ("mask_rcnn/mask_rcnn_x101_32x8d_fpn_1x_coco.yaml", partial(mask_rcnn, trunk=resnext101_32x8d)),
    "keypoint": ("mask_rcnn/keypoint_rcnn_r50_fpn_90k_coco.yaml", keypoint_rcnn),
}
# What our C4 model's layers give when calibrated, as `peers.SPREAD` for torchvision's.
C4_SPREAD = {
    "proposals.conv": 1.0,
    "objectness": 2.0,
    "proposals.deltas": 0.2,
    "box_head.logits": 2.5,
    "box_head.deltas": 0.5,
    "mask_head.deconv": 1.0,
    "mask_head.predictor": 2.0,
}


def textured_image(size: tuple[int, int], seed: int) -> Tensor:
    """uint8 (3, H, W): smooth blobs of many scales, so that features differ from place to place."""
    rng = np.random.default_rng(seed)
    image = torch.zeros(1, 3, *size)
    for cells in (4, 8, 16, 32, 64, 128):
        noise = torch.from_numpy(rng.standard_normal((1, 3, cells, cells), dtype=np.float32))
        image += nn.functional.interpolate(noise, size=size, mode="bicubic")
    return ((image[0] * 28) + 120).clamp(0, 255).to(torch.uint8)


def ours_like(
    peer: nn.Module, post_nms_topk_train: int = 2000, config: str = CONFIG, overrides: Sequence[str] = ()
) -> maskrcnn.modeling.Model:
    """Our model with the peer's weights and conventions."""
    weights = recognise(peer.state_dict())
    assert weights is not None
    options = ["MODEL.PROPOSALS.POST_NMS_TOPK_TRAIN", str(post_nms_topk_train), "MODEL.WEIGHTS", "[]"]
    for key, value in weights.needs.items():
        options += [key, str(value)]
    model = maskrcnn.build_model(maskrcnn.load_config(config, [*options, *overrides]))
    model.load_state_dict(dict(weights.tensors), strict=False)
    missing = model.state_dict().keys() - weights.tensors.keys()
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model.to(memory_format=torch.channels_last)


def ours_with_c4(images: Sequence[Tensor]) -> maskrcnn.modeling.Model:
    """Our Mask R-CNN R50-C4 with the trunk of a calibrated peer, and heads calibrated behind it."""
    peer = mask_rcnn([image / 255 for image in images], min_size=480, max_size=640)
    trunk = recognise(peer.backbone.body.state_dict())
    assert trunk is not None
    ratio = ["MODEL.ROI_HEADS.POOLER.SAMPLING_RATIO", "2"]  # as in the other models and their peers
    model = maskrcnn.build_model(maskrcnn.load_config(C4_CONFIG, ["MODEL.NUM_CLASSES", "80", *ratio]))
    tensors = {model.place(name): tensor for name, tensor in trunk.tensors.items()}
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    samples = [Sample(image, i, (image.shape[1], image.shape[2])) for i, image in enumerate(images)]
    calibrate(model.eval(), samples, C4_SPREAD)
    return model.to(memory_format=torch.channels_last)


def random_targets(
    size: tuple[int, int], count: int, seed: int, *, classes: int = 80, points: int = 0
) -> tuple[Instances, dict[str, Tensor]]:
    """The same objects for us and for torchvision: labels from 1; full-size masks, or keypoints, some not labelled."""
    rng = np.random.default_rng(seed)
    height, width = size
    corner = rng.uniform([0, 0], [width * 0.6, height * 0.6], (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(30, 0.35 * height, (count, 2))], axis=1).astype(np.float32)
    labels = torch.from_numpy(rng.integers(0, classes, count))
    theirs = {"boxes": torch.from_numpy(boxes), "labels": labels + 1}
    if points:
        places = boxes[:, None, :2] + rng.random((count, points, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2])
        seen = rng.integers(0, 3, (count, points, 1))
        keypoints = torch.from_numpy(np.concatenate([places, seen], axis=2).astype(np.float32))
        return Instances(theirs["boxes"], labels, size, None, keypoints), {**theirs, "keypoints": keypoints}
    y, x = np.mgrid[:height, :width] + 0.5
    centers, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    distance = ((x - centers[:, 0, None, None]) / radii[:, 0, None, None]) ** 2
    distance += ((y - centers[:, 1, None, None]) / radii[:, 1, None, None]) ** 2
    masks = torch.from_numpy(distance <= 1)
    mine = Instances(theirs["boxes"], labels, size, BitmapMasks.from_bitmaps(masks))
    return mine, {**theirs, "masks": masks.to(torch.uint8)}


def disagreement(ours: Detections, peer: dict[str, Tensor]) -> str:
    """Raises AssertionError unless both give the same detections."""
    assert len(ours) == len(peer["boxes"]) >= 20, (len(ours), len(peer["boxes"]))
    assert torch.equal(ours.labels + 1, peer["labels"]), "the classes differ"
    box, score = (ours.boxes - peer["boxes"]).abs().max().item(), (ours.scores - peer["scores"]).abs().max().item()
    assert box < 1e-2, f"boxes differ by {box} px"
    assert score < 1e-4, f"scores differ by {score}"
    classes = len(ours.labels.unique())
    what = f"{len(ours)} detections of {classes} classes, boxes within {box:.1e} px, scores within {score:.1e}"
    if ours.keypoints is None:
        return what
    points = (ours.keypoints[..., :2] - peer["keypoints"][..., :2]).abs().amax(dim=2)
    assert (points > 1e-2).float().mean() < 0.01, "keypoints differ"  # two cells of a map can be equally good
    return f"{what}, {100 * (points <= 1e-2).float().mean():.1f}% of the keypoints within 1e-2 px"


def pasted(detections: Detections) -> object:
    """With image-size masks, which torchvision's model always makes."""
    if detections.masks is None:
        return detections
    return paste_masks(detections.masks, detections.boxes, detections.size)


def matched(ours: Any, peer: Any, min_iou: float = 0.9) -> float:
    """The share of the peer's detections that ours has too: of the same class, with at least this IoU.

    Both have `boxes` and `labels`.
    """
    same = ours.labels[:, None] == peer.labels
    return float(((pairwise_iou(ours.boxes, peer.boxes) >= min_iou) & same).any(dim=0).float().mean())


def autocast(precision: str) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def inference(name: str, precisions: Sequence[str], compiled: bool, rounds: int) -> None:
    size = (800, 1066)
    image = textured_image(size, seed=0)
    sample = Sample(image=image, image_id=0, original_size=size)
    contenders: dict[str, Callable[[], object]] = {}
    peer = plain = None
    if name in MODELS:
        config, make_peer = MODELS[name]
        peer = make_peer([image / 255], min_size=800, max_size=1333).eval()
        plain = plain_means(peer)
        make: Callable[[], maskrcnn.modeling.Model] = partial(ours_like, peer, config=config)
        contenders["torchvision"] = lambda: peer_detects(peer, "fp32")
    else:
        make = partial(ours_with_c4, [image])
    ours = {p: prepare_inference(make(), CPU, choose_precision("--precisions", p, CPU)) for p in precisions}

    def detect(model: nn.Module, precision: str) -> Detections:
        with autocast(precision):
            return model([sample])[0]

    def peer_detects(model: nn.Module, precision: str) -> list[dict[str, Tensor]]:
        with autocast(precision):
            return model([image / 255])

    with torch.inference_mode():
        exact = detect(prepare_inference(make(), CPU, choose_precision("", "fp32", CPU)), "fp32")
        what = f"{len(exact)} detections" if peer is None else disagreement(exact, peer([image / 255])[0])
        print(f"{name}, inference, fp32: {what}")
        for precision in precisions:
            if precision != "fp32":
                share = matched(detect(ours[precision], precision), exact)
                print(f"inference, {precision}: {100 * share:.0f}% of the detections matched at IoU 0.9")
            if plain is not None:
                if precision != "fp32":
                    theirs, their_exact = (SimpleNamespace(**peer_detects(plain, p)[0]) for p in (precision, "fp32"))
                    print(f"plain means: {100 * matched(theirs, their_exact):.0f}% of their own")
                contenders[f"plain means, {precision}"] = partial(peer_detects, plain, precision)
            contenders[f"ours, {precision}"] = lambda p=precision: pasted(detect(ours[p], p))
            if compiled:
                faster = copy.deepcopy(ours[precision])
                faster.compile_parts()
                contenders[f"ours, {precision}, compiled"] = lambda p=precision, m=faster: pasted(detect(m, p))
        report(f"{name}, inference, 1 x {size[0]}x{size[1]}", contenders, rounds)


def training(name: str, precisions: Sequence[str], compiled: bool, rounds: int) -> None:
    size = (480, 640)
    images = [textured_image(size, seed) for seed in (1, 2)]
    kinds = {"classes": 1, "points": 17} if name == "keypoint" else {}
    targets = [random_targets(size, 10, seed, **kinds) for seed in (3, 4)]
    batch = [Sample(image, i, size, mine) for i, (image, (mine, _)) in enumerate(zip(images, targets, strict=True))]
    peer: FasterRCNN | None = None
    if name in MODELS:
        config, make_peer = MODELS[name]
        peer = make_peer([image / 255 for image in images], min_size=480, max_size=640).train()
        make: Callable[[], maskrcnn.modeling.Model] = partial(ours_like, peer, config=config)
    else:
        make = partial(ours_with_c4, images)

    def stepper(
        model: nn.Module, losses: Callable[[nn.Module], dict[str, Tensor]], precision: str
    ) -> Callable[[], None]:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-5, momentum=0.9, weight_decay=1e-4)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast(precision):
                total = sum(losses(model).values())
            total.backward()
            optimizer.step()

        return step

    def peers_losses(model: nn.Module) -> dict[str, Tensor]:
        return model([image / 255 for image in images], [theirs for _, theirs in targets])

    contenders: dict[str, Callable[[], object]] = {}
    if peer is not None:
        contenders["torchvision"] = stepper(copy.deepcopy(peer), peers_losses, "fp32")
    for precision in precisions:
        if peer is not None:
            plain = copy.deepcopy(peer)
            # torchvision's keypoint loss fails on maps in channels_last; its poolers give ordinary ones.
            (plain.backbone if name == "keypoint" else plain).to(memory_format=torch.channels_last)
            contenders[f"plain means, {precision}"] = stepper(plain, peers_losses, precision)
        contenders[f"ours, {precision}"] = stepper(make().train(), lambda model: model(batch), precision)
        if compiled:
            faster = make().train()
            faster.compile_parts()
            contenders[f"ours, {precision}, compiled"] = stepper(faster, lambda model: model(batch), precision)
    report(f"{name}, training step, 2 x {size[0]}x{size[1]}", contenders, rounds)


def report(what: str, contenders: dict[str, Callable[[], object]], rounds: int) -> None:
    """A Markdown table: medians, and medians of the ratios to torchvision and to its plain means of that precision."""
    times = in_turns(contenders, rounds=rounds)
    print(f"\n| {what} | time | of torchvision | of plain means | memory peak |\n| --- | --- | --- | --- | --- |")
    for name, seconds in times.items():
        ratios = []
        for base in ("torchvision", f"plain means, {name.split(', ')[1]}" if ", " in name else ""):
            pairs = zip(times.get(base, ()), seconds, strict=False)
            ratios.append(f"{statistics.median(a / b for a, b in pairs):.2f}x" if base in times else "")
        peak = memory_peak(contenders[name])
        memory = "" if peak is None else f"{peak:.0f} MiB"
        print(f"| {name} | {statistics.median(seconds):.3f} s | {' | '.join(ratios)} | {memory} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=(*MODELS, "r50_c4"), default=["r50_fpn"])
    parser.add_argument("--parts", nargs="+", choices=("inference", "training"), default=["inference", "training"])
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--compile", action="store_true", help="also time our model with its parts compiled")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)
    print(describe())
    for model in arguments.models:
        if "inference" in arguments.parts:
            inference(model, arguments.precisions, arguments.compile, arguments.rounds)
        if "training" in arguments.parts:
            training(model, arguments.precisions, arguments.compile, arguments.rounds)


if __name__ == "__main__":
    main()
