"""What a model is made of and costs: parameters, multiply-adds and activations by module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from yacs.config import CfgNode

from maskrcnn.data.transforms import resized_size
from maskrcnn.engine.checks import changed
from maskrcnn.engine.solver import build_optimizer
from maskrcnn.evaluation.tables import aligned
from maskrcnn.modeling import build_model
from maskrcnn.modeling.generalized_rcnn import GeneralizedRCNN
from maskrcnn.structures import Detections, Proposals, Sample

COCO_CLASSES = 80  # for a config that leaves their number to the data
USUAL_IMAGE = (480, 640)  # most of COCO's; the test-time resizing makes the default size of it
HEADINGS = ("module", "parameters M", "trained M", "multiply-adds G", "activations MB")


@dataclass(frozen=True)
class Cost:
    """Of a module with all that it contains.

    `multiply_adds` are those of convolutions and matrix products. `activations` are the elements of what its layers
    return, a layer being a module without others in it or with weights of its own.
    """

    parameters: int
    trained: int
    multiply_adds: int = 0
    activations: int = 0


def summarize(cfg: CfgNode, *, size: tuple[int, int] | None = None, depth: int = 2) -> str:
    """The table of a config's model for one inference of one image, on the CPU, with fresh weights and without data.

    Args:
        size: (H, W) of the image as the network gets it; None: what INPUT makes at test time of a 3:4 image.
        depth: how many levels of modules have rows.

    Raises:
        ValueError: a part refuses its options.
    """
    given = cfg.MODEL.NUM_CLASSES
    cfg = changed(cfg, "MODEL", NUM_CLASSES=given or COCO_CLASSES)
    model = build_model(cfg).eval()
    build_optimizer(model, cfg.SOLVER)  # freezes what LR_FACTORS says
    height, width = size or resized_size(
        USUAL_IMAGE, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.SIZE_ROUNDING
    )
    sample = Sample(torch.zeros(3, height, width, dtype=torch.uint8), image_id=0, original_size=(height, width))
    if isinstance(model, GeneralizedRCNN):
        wanted = cfg.MODEL.PROPOSALS.get("POST_NMS_TOPK_TEST", cfg.MODEL.PROPOSALS.get("TOPK_TEST"))
        sample = replace(sample, proposals=Proposals(**whole_image(sample, wanted or 0)))  # for who reads them
        costs, proposals = two_stage_costs(model, sample, wanted)
        regions = f"{proposals} proposals, {model.roi_heads.detections_per_image} detections"
    else:
        costs = module_costs(model, lambda: model([sample]))
        regions = "as many detections as fresh weights find"
    classes = f"{cfg.MODEL.NUM_CLASSES} classes" + ("" if given else " (MODEL.NUM_CLASSES is 0: COCO's number)")
    heading = f"{type(model).__name__}, {classes}; one image of {height} x {width} pixels, {regions}"
    return f"{heading}\n\n{table(costs, type(model).__name__, depth)}"


def two_stage_costs(model: GeneralizedRCNN, sample: Sample, wanted: int | None) -> tuple[dict[str, Cost], int]:
    """Of an inference with `wanted` proposals (None: those found) and the most detections; also the first number.

    The heads' cost is that of their regions, of which fresh weights find an arbitrary number. So each stage runs on a
    fixed number of them; each is the whole image, since no cost counted here depends on where they are.
    """
    count = 0

    def run() -> None:
        nonlocal count
        images = model.image_batch([sample])
        features = model.features(images)
        found = model.proposals.inference(features, images)[0]
        count = len(found) if wanted is None else wanted
        model.roi_heads.score(features, [found if wanted is None else Proposals(**whole_image(sample, count))])
        best = model.roi_heads.detections_per_image
        labels = torch.zeros(best, dtype=torch.int64)
        model.roi_heads.on_boxes(features, [Detections(**whole_image(sample, best), labels=labels)])

    return module_costs(model, run), count


def whole_image(sample: Sample, count: int) -> dict[str, Any]:
    """`count` boxes around the image, as fields of a structure."""
    height, width = sample.size
    return {
        "boxes": torch.tensor([[0.0, 0.0, width, height]] * count),
        "scores": torch.ones(count),
        "size": sample.size,
    }


def module_costs(model: nn.Module, run: Callable[[], Any]) -> dict[str, Cost]:
    """Costs of all modules by name, in their order, "" being the whole, while `run` uses the model without gradients.

    A module that `run` does not call by itself, such as a list of modules, costs what its parts cost.
    """
    modules = dict(model.named_modules())
    multiply_adds, activations = dict.fromkeys(modules, 0), dict.fromkeys(modules, 0)
    running, settled = [""], 0
    counter = FlopCounterMode(display=False)

    def settle() -> None:
        """What was computed since the last call is the innermost running module's own."""
        nonlocal settled
        total = counter.get_total_flops()
        multiply_adds[running[-1]] += (total - settled) // 2
        settled = total

    def watch(name: str, module: nn.Module) -> Iterator[Any]:
        is_layer = not list(module.children()) or list(module.parameters(recurse=False))

        def before(module: nn.Module, inputs: Any) -> None:
            settle()
            running.append(name)

        def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
            settle()
            running.pop()
            if is_layer:
                activations[name] += elements(outputs)

        yield module.register_forward_pre_hook(before)
        yield module.register_forward_hook(after)

    with ExitStack() as stack:
        for name, module in modules.items():
            for handle in watch(name, module):
                stack.callback(handle.remove)
        with torch.no_grad(), counter:
            run()
            settle()
    return {
        name: replace(
            parameter_cost(module),
            multiply_adds=sum(multiply_adds[part] for part in modules if is_within(part, name)),
            activations=sum(activations[part] for part in modules if is_within(part, name)),
        )
        for name, module in modules.items()
    }


def is_within(part: str, name: str) -> bool:
    return not name or part == name or part.startswith(f"{name}.")


def parameter_cost(module: nn.Module) -> Cost:
    parameters = list(module.parameters())
    return Cost(
        parameters=sum(p.numel() for p in parameters), trained=sum(p.numel() for p in parameters if p.requires_grad)
    )


def elements(outputs: Any) -> int:
    """Of all tensors in what a module returned."""
    if isinstance(outputs, Tensor):
        return outputs.numel()
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return sum(map(elements, outputs)) if isinstance(outputs, (list, tuple)) else 0


def table(costs: dict[str, Cost], title: str, depth: int) -> str:
    """Lines of text: the whole, then modules down to `depth`, without those that cost nothing. MB are 10^6 bytes."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for name, cost in costs.items():
        level = name.count(".") + 1 if name else 0
        if level <= depth and cost != Cost(0, 0):
            label = "  " * level + name.rpartition(".")[2] if name else title
            sizes = (cost.parameters / 1e6, cost.trained / 1e6, cost.multiply_adds / 1e9, cost.activations * 4 / 1e6)
            rows.append((label, *(f"{value:.{digits}f}" for value, digits in zip(sizes, (3, 3, 3, 1), strict=True))))
    return aligned(rows)
