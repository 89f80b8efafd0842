"""Mask R-CNN R50-FPN against torchvision's maskrcnn_resnet50_fpn: equal weights, equal inputs, equal answers.

    python benchmarks/mask_rcnn.py [--rounds 5]

Inference: one image of 800x1066, 100 detections. Training: two images of 480x640 with 10 objects each, forward,
backward and the SGD step. Both in one process, in turns, on 2 threads (OMP_NUM_THREADS changes it).
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from machine import describe, side_by_side
from peers import mask_rcnn
from torch import Tensor, nn

import maskrcnn
from maskrcnn.checkpoint.importers import recognise
from maskrcnn.ops.paste import paste_masks
from maskrcnn.structures import Detections, Instances, Sample
from maskrcnn.structures.masks import BitmapMasks

CONFIG = "mask_rcnn/mask_rcnn_r50_fpn_160k_coco.yaml"


def textured_image(size: tuple[int, int], seed: int) -> Tensor:
    """uint8 (3, H, W): smooth blobs of many scales, so that features differ from place to place."""
    rng = np.random.default_rng(seed)
    image = torch.zeros(1, 3, *size)
    for cells in (4, 8, 16, 32, 64, 128):
        noise = torch.from_numpy(rng.standard_normal((1, 3, cells, cells), dtype=np.float32))
        image += nn.functional.interpolate(noise, size=size, mode="bicubic")
    return ((image[0] * 28) + 120).clamp(0, 255).to(torch.uint8)


def ours_like(peer: nn.Module, post_nms_topk_train: int = 2000) -> maskrcnn.modeling.Model:
    """Our model with the peer's weights and conventions."""
    weights = recognise(peer.state_dict())
    assert weights is not None
    overrides = ["MODEL.PROPOSALS.POST_NMS_TOPK_TRAIN", str(post_nms_topk_train), "MODEL.WEIGHTS", "[]"]
    for key, value in weights.needs.items():
        overrides += [key, str(value)]
    model = maskrcnn.build_model(maskrcnn.load_config(CONFIG, overrides))
    model.load_state_dict(dict(weights.tensors))
    return model.to(memory_format=torch.channels_last)


def random_targets(size: tuple[int, int], count: int, seed: int) -> tuple[Instances, dict[str, Tensor]]:
    """The same objects for us and for torchvision (labels from 1, full-size masks)."""
    rng = np.random.default_rng(seed)
    height, width = size
    corner = rng.uniform([0, 0], [width * 0.6, height * 0.6], (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(30, 0.35 * height, (count, 2))], axis=1).astype(np.float32)
    y, x = np.mgrid[:height, :width] + 0.5
    centers, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    distance = ((x - centers[:, 0, None, None]) / radii[:, 0, None, None]) ** 2
    distance += ((y - centers[:, 1, None, None]) / radii[:, 1, None, None]) ** 2
    masks = torch.from_numpy(distance <= 1)
    labels = torch.from_numpy(rng.integers(0, 80, count))
    mine = Instances(torch.from_numpy(boxes), labels, size, BitmapMasks.from_bitmaps(masks))
    return mine, {"boxes": mine.boxes, "labels": labels + 1, "masks": masks.to(torch.uint8)}


def disagreement(ours: Detections, peer: dict[str, Tensor]) -> str:
    """Raises AssertionError unless both give the same detections."""
    assert len(ours) == len(peer["boxes"]) >= 20, (len(ours), len(peer["boxes"]))
    assert torch.equal(ours.labels + 1, peer["labels"]), "the classes differ"
    box, score = (ours.boxes - peer["boxes"]).abs().max().item(), (ours.scores - peer["scores"]).abs().max().item()
    assert box < 1e-2, f"boxes differ by {box} px"
    assert score < 1e-4, f"scores differ by {score}"
    classes = len(ours.labels.unique())
    return f"{len(ours)} detections of {classes} classes, boxes within {box:.1e} px, scores within {score:.1e}"


def pasted(detections: Detections) -> Tensor:
    """Image-size masks, which torchvision's model always makes."""
    return paste_masks(detections.masks, detections.boxes, detections.size)


def inference(rounds: int) -> None:
    size = (800, 1066)
    image = textured_image(size, seed=0)
    peer = mask_rcnn([image / 255], min_size=800, max_size=1333).eval()
    ours = ours_like(peer).eval()
    sample = Sample(image=image, image_id=0, original_size=size)
    with torch.inference_mode():
        print("inference:", disagreement(ours([sample])[0], peer([image / 255])[0]))
        mine, theirs, ratio = side_by_side(
            lambda: pasted(ours([sample])[0]), lambda: peer([image / 255]), rounds=rounds
        )
    print(f"inference {size}, masks pasted: ours {mine:.3f} s, torchvision {theirs:.3f} s, {ratio:.2f}x")


def training(rounds: int) -> None:
    size = (480, 640)
    images = [textured_image(size, seed) for seed in (1, 2)]
    peer = mask_rcnn([image / 255 for image in images], min_size=480, max_size=640).train()
    ours = ours_like(peer).train()
    targets = [random_targets(size, 10, seed) for seed in (3, 4)]
    batch = [Sample(image, i, size, mine) for i, (image, (mine, _)) in enumerate(zip(images, targets, strict=True))]

    def stepper(model: nn.Module, losses: object) -> object:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-5, momentum=0.9, weight_decay=1e-4)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            sum(losses().values()).backward()
            optimizer.step()

        return step

    ours_step = stepper(ours, lambda: ours(batch))
    peer_step = stepper(peer, lambda: peer([image / 255 for image in images], [theirs for _, theirs in targets]))
    mine, theirs, ratio = side_by_side(ours_step, peer_step, rounds=rounds)
    print(f"training step 2 x {size}: ours {mine:.3f} s, torchvision {theirs:.3f} s, {ratio:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)
    print(describe())
    inference(arguments.rounds)
    training(arguments.rounds)


if __name__ == "__main__":
    main()
