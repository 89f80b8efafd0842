"""A model of a few parameters with the face of every model, an evaluator that costs nothing, and a run of both.

The tests' configs name this file in IMPORTS, as a researcher's would.
"""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from torch import nn

from maskrcnn.modeling import Model
from maskrcnn.registry import EVALUATORS, MODELS
from maskrcnn.structures import Detections

CLASS_NAMES = ("disc", "square", "cross")
CATEGORY_IDS = (2, 5, 9)


@MODELS.register()
class TinyModel(Model):
    """Fits a class-wise colour, with noise from torch's generator as sampling in a detector draws it."""

    task = "instance"

    def __init__(
        self,
        num_classes,
        detections_per_image,
        conventions,
        *,
        channels: int = 4,
        diverge_at: int = -1,
        diverge_on: int = -1,
        pause: float = 0.0,
        inference_pause: float = 0.0,
    ) -> None:
        super().__init__((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
        self.conv = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, channels)
        self.frozen = nn.Conv2d(channels, channels, 1).requires_grad_(False)
        self.predictor = nn.Conv2d(channels, num_classes, 1)
        self.diverge_at, self.diverge_on, self.steps = diverge_at, diverge_on, 0
        self.pause, self.inference_pause = pause, inference_pause

    def predict(self, sample, scale=1.0):
        image = scale * (sample.image[None].float() - self.pixel_mean)
        return self.predictor(self.frozen(self.norm(self.conv(image / self.pixel_std)).relu())).mean(dim=(0, 2, 3))

    def losses(self, batch):
        scales = [float("inf") if sample.image_id == self.diverge_on else 1.0 for sample in batch]
        logits = torch.stack([self.predict(*pair) for pair in zip(batch, scales, strict=True)])
        noise = torch.rand(logits.shape) * 0.1 + np.random.rand() * 0.1
        wanted = torch.stack([s.targets.labels.bincount(minlength=logits.shape[1]).float() for s in batch])
        self.steps += 1
        time.sleep(self.pause)
        fit = (logits - wanted + noise).square().mean()
        return {
            "loss_fit": fit * (float("nan") if self.steps - 1 == self.diverge_at else 1),
            "loss_size": logits.square().mean() * 0.01,
            "num_objects": wanted.sum(),
        }

    def inference(self, batch):
        time.sleep(self.inference_pause)
        return [
            Detections(
                boxes=torch.tensor([[4.0, 4.0, 24.0, 24.0]]),
                scores=self.predict(sample).sigmoid().amax()[None].detach(),
                labels=torch.zeros(1, dtype=torch.int64),
                size=sample.original_size,
            )
            for sample in batch
        ]


@EVALUATORS.register("mean_score")
class MeanScore:
    """Also draws random numbers, which must not change the training that goes on."""

    metrics = ("score/mean",)

    def __init__(self, dataset, output_dir, detections_per_image):
        self.scores = []

    def process(self, samples, outputs):
        torch.rand(3), np.random.rand(3)
        self.scores += [float(detections.scores.mean()) for detections in outputs]

    def result(self):
        return {"score/mean": 100 * sum(self.scores) / len(self.scores)}


def write_coco(folder: Path, *, images: int = 6, seed: int = 0) -> Path:
    """A COCO file with bright boxes on dark images; the path of the JSON, beside the folder `images`."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)]
    for i in range(images):
        height, width = ((32, 48), (48, 32))[i % 2]
        pixels = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
        content["images"].append({"id": 10 + i, "file_name": f"{i}.png", "height": height, "width": width})
        for k in range(1 + i % 3):
            x, y = (int(v) for v in rng.integers(2, 16, 2))
            pixels[y : y + 12, x : x + 12, k] = 255
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": 10 + i,
                    "category_id": CATEGORY_IDS[k],
                    "bbox": [x, y, 12, 12],
                    "area": 144,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + 12, y, x + 12, y + 12, x, y + 12]],
                }
            )
        cv2.imwrite(str(folder / "images" / f"{i}.png"), pixels)
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


def write_config(folder: Path, *, output: str = "run", **sections) -> Path:
    """A config of the tiny model on its own data; `sections` are merged into it, section by section."""
    if not (folder / "data").exists():
        write_coco(folder / "data")
    files = {"JSON": str(folder / "data" / "annotations.json"), "IMAGES": str(folder / "data" / "images")}
    config = {
        "IMPORTS": [__file__],
        "OUTPUT_DIR": str(folder / output),
        "MODEL": {"NAME": "TinyModel", "DEVICE": "cpu"},
        "DATASETS": {"TRAIN": [files], "TEST": [files]},
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"MIN_SIZE_TRAIN": [32, 40], "MAX_SIZE_TRAIN": 64, "MIN_SIZE_TEST": 32, "MAX_SIZE_TEST": 64},
        "SOLVER": {
            "IMS_PER_BATCH": 2,
            "BASE_LR": 0.01,
            "MAX_ITER": 8,
            "STEPS": [6],
            "WARMUP_ITERS": 4,
            "CHECKPOINT_PERIOD": 4,
            "AMP": "fp32",
            "CLIP_GRADIENTS": 5.0,
            "WEIGHT_DECAY_NORM": 0.001,
        },
        "TEST": {"EVALUATORS": ["mean_score"], "EVAL_PERIOD": 3},
    }
    for key, value in sections.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_detector_config(folder: Path) -> Path:
    """A config of a real detector of tiny size on the same data: two steps."""
    model = {
        "NAME": "GeneralizedRCNN",
        "BACKBONE": {"NAME": "ResNet", "DEPTH": 18, "WIDTH": 8, "NORM": "GN", "FREEZE_AT": 0},
        "NECK": {"NAME": "FPN", "CHANNELS": 8, "NORM": "GN"},
        "PROPOSALS": {"NAME": "RPN"},
        "ROI_HEADS": {
            "NAME": "StandardRoIHeads",
            "BOX_HEAD": {"NAME": "TwoFCBoxHead", "FC_DIM": 8},
            "MASK_HEAD": {"NAME": "FCNMaskHead", "NUM_CONVS": 1, "CONV_DIM": 8},
        },
    }
    return write_config(
        folder,
        MODEL=model,
        SOLVER={"MAX_ITER": 2, "STEPS": [], "WARMUP_ITERS": 0},
        TEST={"EVAL_PERIOD": 0, "EVALUATORS": ["coco"]},
    )
