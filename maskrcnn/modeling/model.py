"""What every model shares, and how one is built from a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from maskrcnn.conventions import conventions
from maskrcnn.modeling.recompute import recompute_in_backward
from maskrcnn.registry import MODELS
from maskrcnn.structures import Detections, Sample

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Model(nn.Module):
    """The face of every system: `losses` of a batch in training, `inference` of a batch otherwise.

    Args:
        pixel_mean, pixel_std: RGB, 0..255.

    `task` names what the model is trained on, by which a data pipeline is picked: "instance", "semantic" or "patch".
    `outputs` is the structure that `inference` gives, by which evaluators are checked before training starts.
    `without` are prefixes of tensors that a larger system of the same parts has and this one leaves out, so that it
    takes that system's weights.
    """

    task: str
    outputs: type = Detections
    without: tuple[str, ...] = ()
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            # Not part of the weights: the config says it, and a checkpoint carries its config.
            self.register_buffer(name, torch.tensor(values).float().view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; norms whose weights are frozen stay in evaluation mode.

        What is frozen does not change: such a norm keeps its running statistics, and normalises by them.
        """
        super().train(mode)
        for norm in self.modules():
            if isinstance(norm, _NormBase) and _is_frozen(norm):
                norm.training = False
        return self

    def compilable(self) -> list[nn.Module]:
        """The parts whose `forward` is one graph of tensors, whatever the sizes."""
        raise NotImplementedError

    def compile_parts(self, **options: Any) -> None:
        """Compile these parts with `torch.compile`, in place; names and weights stay as they are.

        Sizes are dynamic from the start: another image size, or number of boxes, does not compile anew. torch takes
        batches of one image apart from larger ones, and maps of one cell apart from larger ones.

        Args:
            options: of `torch.compile`, such as `backend`.
        """
        for part in self.compilable():
            part.compile(dynamic=True, **options)

    def recomputable(self) -> list[nn.Module]:
        """The parts that may run a second time in the backward pass, in place of keeping what they computed.

        Raises:
            ValueError: there are none.
        """
        raise ValueError(
            f"SOLVER.GRADIENT_CHECKPOINTING: {type(self).__name__} has no parts to recompute; leave it off"
        )

    def checkpoint_parts(self) -> None:
        """Trade time for memory in training: these parts' activations are computed again in the backward pass.

        In place; names and weights stay as they are, and so do losses, gradients and running statistics.

        Raises:
            ValueError: there are no such parts.
        """
        for part in self.recomputable():
            recompute_in_backward(part)

    def class_rows(self) -> dict[str, int]:
        """The weights with rows for each class, by full name, and how many a class has (`rows_per_class` of a head).

        Rows stand class after class; what is left at the end are the background's.
        """
        return {
            f"{name}.{layer}.{kind}": rows
            for name, part in self.named_modules()
            for layer, rows in getattr(part, "rows_per_class", {}).items()
            for kind in ("weight", "bias")
        }

    def place(self, name: str) -> str:
        """What a tensor of some weights is called here: a stage of the trunk may stand elsewhere in this model."""
        return name

    def losses(self, batch: list[Any]) -> dict[str, Tensor]:
        """Scalars; the sum of those whose name starts with loss_ is what training minimises, the others are logged."""
        raise NotImplementedError

    def inference(self, batch: list[Any]) -> list[Any]:
        """One result per image, in the frame of its file."""
        raise NotImplementedError

    def forward(self, batch: list[Any]) -> Any:
        return self.losses(batch) if self.training else self.inference(batch)


def _is_frozen(norm: nn.Module) -> bool:
    parameters = list(norm.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def build_model(cfg: Mapping[str, Any]) -> Model:
    """The model of a whole config, with fresh weights, on the CPU.

    Raises:
        ValueError: a part refuses its options, or the number of classes is not known yet.
    """
    section = cfg["MODEL"]
    if section["NUM_CLASSES"] < 1:
        raise ValueError(
            "MODEL.NUM_CLASSES is 0: training fills it in from the annotation file; to build a model without data, "
            "give the number"
        )
    return MODELS.build(
        section,
        section["NUM_CLASSES"],
        cfg["TEST"]["DETECTIONS_PER_IMAGE"],
        conventions(section["CONVENTIONS"]),
    )


def targets_of(batch: list[Sample], device: torch.device) -> list[Any]:
    """The ground truth of each sample, on the device.

    Raises:
        ValueError: a sample without ground truth.
    """
    targets = []
    for sample in batch:
        if sample.targets is None:
            raise ValueError(f"image {sample.image_id} has no targets, which training needs (an empty one is fine)")
        targets.append(sample.targets.to(device, non_blocking=True))
    return targets
