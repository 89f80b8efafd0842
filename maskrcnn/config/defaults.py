"""The fixed sections: every option that belongs to no named class, with its type and default.

The class of a section is only a schema, so its fields are written in capitals, as in the YAML files. Everything else of
the config tree comes from the classes that the sections name (`maskrcnn.registry`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from maskrcnn.registry import MODELS, Registry, nests


class CocoFiles(TypedDict):
    """Data of one's own in COCO format: the annotation file and the folder of the images."""

    JSON: str
    IMAGES: str


@dataclass(frozen=True)
class TopLevel:
    """The keys outside any section."""

    # Modules to import first, with parts of one's own: by name, or a file such as edge_head.py. They add up over the
    # files of a config, and are looked for beside the file that names them, then in the current folder.
    IMPORTS: str | tuple[str, ...] = ()
    OUTPUT_DIR: str = "./output"
    # Seeds weights, sampling, augmentation and data order; negative: a new seed in every run.
    SEED: int = 0
    # The same bits from each run on the same machine, or an error; slower on a GPU.
    DETERMINISTIC: bool = False
    # Backbone and heads by torch.compile: the first images take minutes, the others less time.
    COMPILE: bool = False
    # Where numbers and pictures go besides log and metrics.json: "tensorboard", "wandb", "mlflow", or one's own.
    WRITERS: tuple[str, ...] = ("tensorboard",)


@dataclass(frozen=True)
class ModelKeys:
    """MODEL's own keys, which no one model class owns; the named class adds its own."""

    NAME: str = "GeneralizedRCNN"
    # What the weights start from, one or several, later ones win: a checkpoint, `torchvision://NAME`, or a URL with its
    # hash, `https://HOST/FILE#sha256=HASH`.
    WEIGHTS: str | tuple[str, ...] = ()
    # Options that have their default become what the weights need to answer as where they were trained.
    FOLLOW_WEIGHTS: bool = True
    # "auto": the GPU if there is one.
    DEVICE: str = "auto"
    # Foreground classes; 0: as many as the training data have.
    NUM_CLASSES: int = 0
    # RGB in 0..255, torchvision's ImageNet figures: (pixel - mean) / std.
    PIXEL_MEAN: tuple[float, float, float] = (123.675, 116.28, 103.53)
    PIXEL_STD: tuple[float, float, float] = (58.395, 57.12, 57.375)
    # The arithmetic of the library that the weights were trained in (rounding, offsets, clips): "ours", "torchvision",
    # "detectron2", "maskrcnn_benchmark" (Detectron's too) or "mmdet".
    CONVENTIONS: str = "ours"


@dataclass(frozen=True)
class Datasets:
    """Which data, by registered name or as {JSON: file, IMAGES: folder}."""

    # The folder of the registered data sets; empty: $MASKRCNN_DATASETS, else $DETECTRON2_DATASETS, else ./datasets.
    ROOT: str = ""
    TRAIN: str | CocoFiles | tuple[str | CocoFiles, ...] = ()
    TEST: str | CocoFiles | tuple[str | CocoFiles, ...] = ()
    # Files of proposals (docs/proposals.md) for MODEL.PROPOSALS.NAME ProposalsFromFile: one for each entry of TRAIN and
    # of TEST, in their order.
    PROPOSAL_FILES_TRAIN: str | tuple[str, ...] = ()
    PROPOSAL_FILES_TEST: str | tuple[str, ...] = ()
    # Entries of an annotation file with an error: the run does not start, they are left out, or mended where possible.
    PROBLEMS: Literal["error", "drop", "repair"] = "error"


@dataclass(frozen=True)
class DataLoader:
    """How samples are drawn and loaded."""

    NUM_WORKERS: int = 2
    # Wide images with wide ones, tall with tall: less padding in a batch.
    ASPECT_RATIO_GROUPING: bool = True
    # Leave images without any usable object out of training.
    FILTER_EMPTY_ANNOTATIONS: bool = True
    # Leave images with fewer labelled keypoints out of training.
    MIN_KEYPOINTS: int = 0


@dataclass(frozen=True)
class Input:
    """Image size and augmentation."""

    # Length of the shorter side: one of these ("choice"), or any between two of them ("range").
    MIN_SIZE_TRAIN: tuple[int, ...] = (800,)
    MIN_SIZE_TRAIN_SAMPLING: Literal["choice", "range"] = "choice"
    MAX_SIZE_TRAIN: int = 1333
    MIN_SIZE_TEST: int = 800
    MAX_SIZE_TEST: int = 1333
    # Of the sides: half up, as in Detectron2 and MMDetection, down, as in torchvision, or the longer one down, as in
    # maskrcnn-benchmark.
    SIZE_ROUNDING: Literal["half_up", "down", "longer_down"] = "half_up"
    RANDOM_FLIP: Literal["horizontal", "none"] = "horizontal"


@dataclass(frozen=True)
class Solver:
    """Optimizer and schedule: Mask R-CNN §3.1; the warm-up, of which the paper says nothing, is Detectron2's."""

    IMS_PER_BATCH: int = 16  # of a step, over all processes and passes together
    # Passes of a step, one after the other, whose gradients are averaged: less memory for the same batch.
    ACCUMULATE: int = 1
    # AdamW learns faster from scratch; its decay is decoupled from the gradient, its rates are far lower than SGD's.
    OPTIMIZER: Literal["SGD", "AdamW"] = "SGD"
    BASE_LR: float = 0.02  # for this batch: another batch size wants the rate scaled with it
    # The batch that BASE_LR is for: another IMS_PER_BATCH scales it linearly. 0: it is never scaled.
    LR_FOR_BATCH: int = 0
    LR_SCHEDULE: Literal["multistep", "poly", "cosine"] = "multistep"
    POLY_POWER: float = 0.9
    STEPS: tuple[int, ...] = (120000,)
    GAMMA: float = 0.1
    MAX_ITER: int = 160000
    WARMUP_ITERS: int = 1000
    WARMUP_FACTOR: float = 0.001
    # Patterns of parameter names with the factor of their learning rate, [["roi_heads.mask_head.*", 4.0]]; the last
    # match counts, and 0 freezes.
    LR_FACTORS: tuple[tuple[str, float], ...] = ()
    MOMENTUM: float = 0.9
    NESTEROV: bool = False
    WEIGHT_DECAY: float = 0.0001
    WEIGHT_DECAY_NORM: float = 0.0
    # Largest total norm of the gradient; 0: no clipping.
    CLIP_GRADIENTS: float = 0.0
    # "auto": bf16 where the hardware computes in it, else fp32.
    AMP: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # Compute the backbone's activations again in the backward pass: less memory, and its forward pass twice.
    GRADIENT_CHECKPOINTING: bool = False
    # Steps with a loss or gradient that is not finite, which may be left out before the run stops.
    SKIP_NON_FINITE: int = 0
    # Decay of the moving average of the weights, such as 0.9998, which is then what is evaluated; 0: no average.
    EMA: float = 0.0
    CHECKPOINT_PERIOD: int = 5000
    # How many of those stay, beside the best and the final one; 0: all.
    CHECKPOINTS_KEPT: int = 0


@dataclass(frozen=True)
class Augmentation:
    """Several views of a test image, whose detections become one result (`engine/views.py`); values: Detectron2."""

    # In --eval-only, in a last evaluation after the training, and in predictions.
    ENABLED: bool = False
    # Lengths of the shorter side, a view for each.
    SIZES: tuple[int, ...] = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
    MAX_SIZE: int = 4000
    # Each view in a mirror too: twice as many.
    HFLIP: bool = True
    # Each detection's box becomes the mean of the boxes of its class, of all views, with at least this IoU, weighted by
    # their scores; 0: it stays.
    BOX_VOTING: float = 0.0


@nests(AUGMENTATION=Augmentation)
@dataclass(frozen=True)
class Evaluation:
    """What is measured, and when."""

    EVALUATORS: tuple[str, ...] = ("coco",)
    # The losses on DATASETS.TEST too, at each evaluation.
    LOSS: bool = False
    # A page about the run, OUTPUT_DIR/report.html, after each evaluation.
    REPORT: bool = True
    # Iterations between evaluations during training; 0: only at the end.
    EVAL_PERIOD: int = 0
    # A metric by its name, such as segm/AP, by which model_best.pth is kept; empty: none.
    BEST_METRIC: str = ""
    # Evaluations without a better value of it after which training ends; 0: never.
    PATIENCE: int = 0
    # One number for the model and for the evaluator.
    DETECTIONS_PER_IMAGE: int = 100
    IMS_PER_BATCH: int = 1
    # As SOLVER.AMP: what the model computes in, also in predictions.
    AMP: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"


SECTIONS: dict[str, Registry | type] = {
    "MODEL": MODELS,
    "DATASETS": Datasets,
    "DATALOADER": DataLoader,
    "INPUT": Input,
    "SOLVER": Solver,
    "TEST": Evaluation,
}
