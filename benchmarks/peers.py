"""torchvision's detectors with calibrated random weights, to compare with: no download, yet many detections.

Plain random weights give one class or no detection at all. Here each layer's output is brought to a useful spread on
given images: norms get the statistics that they see, and the predictors' weights are scaled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet, resnet50
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

NORMS = FrozenBatchNorm2d | nn.BatchNorm2d


def mask_rcnn(
    images: Sequence[Tensor], *, min_size: int, max_size: int, seed: int = 0, num_classes: int = 91
) -> MaskRCNN:
    """torchvision's maskrcnn_resnet50_fpn, as its builder makes it for pretrained weights, with calibrated random ones.

    Args:
        images: float (3, H, W) in 0..1, on which the weights are calibrated.
    """
    return detector(MaskRCNN, images, num_classes, seed=seed, min_size=min_size, max_size=max_size)


def keypoint_rcnn(
    images: Sequence[Tensor], *, min_size: int, max_size: int, seed: int = 0, detections: int = 100
) -> KeypointRCNN:
    """torchvision's keypointrcnn_resnet50_fpn in the same way: one class, 17 keypoints, so many people at most."""
    options = {"min_size": min_size, "max_size": max_size, "num_keypoints": 17, "box_detections_per_img": detections}
    # one class passes the threshold with less
    return detector(KeypointRCNN, images, 2, seed=seed, boldness=0.4, **options)


def detector(
    kind: type[FasterRCNN],
    images: Sequence[Tensor],
    num_classes: int,
    *,
    seed: int = 0,
    trunk: Callable[..., ResNet] = resnet50,
    boldness: float = 1.0,
    **options: Any,
) -> Any:
    """torchvision's detector of a kind on a ResNet-FPN, as for pretrained weights: frozen norms, stem and layer1 fixed.

    Args:
        boldness: factor of the box predictor's weights; with less, scores are lower, and rounding counts for less.
        options: of the class.
    """
    torch.manual_seed(seed)
    body = trunk(weights=None, norm_layer=FrozenBatchNorm2d)
    model = kind(_resnet_fpn_extractor(body, 3), num_classes, **options)
    calibrate(model.eval(), images, boldness)
    return model


def detector_v2(
    builder: Callable[..., FasterRCNN],
    images: Sequence[Tensor],
    *,
    seed: int = 0,
    boldness: float = 1.0,
    **options: Any,
) -> Any:
    """What one of torchvision's `_v2` builders makes, with BN in trunk, FPN and heads, of which nothing is fixed."""
    torch.manual_seed(seed)
    model = builder(weights=None, weights_backbone=None, **options)
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.uniform_(0.8, 1.2)
            norm.bias.uniform_(-0.2, 0.2)
    calibrate(model.eval(), images, boldness)
    return model


# Of each block's residual branch, as in trained networks; at 1, fifty random layers blow float32 rounding up to 1e-4.
RESIDUAL_SCALE = 0.2
# The spread (standard deviation) of what each layer gives. Logits of 2.5 put many classes above the score threshold.
SPREAD = {
    "layer_blocks": 1.0,
    "rpn.head.conv": 1.0,
    "cls_logits": 2.0,
    "rpn.head.bbox_pred": 0.2,
    "box_head.fc6": 1.0,
    "box_head.fc7": 1.0,
    "box_predictor.cls_score": 2.5,
    "box_predictor.bbox_pred": 0.5,
    "mask_head": 1.0,
    "conv5_mask": 1.0,
    "mask_fcn_logits": 2.0,
    "keypoint_head": 1.0,
    "kps_score_lowres": 1.0,
}


@torch.inference_mode()
def calibrate(model: FasterRCNN, images: Sequence[Tensor], boldness: float) -> None:
    """Set norms and scales, layer by layer, in one forward pass."""
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, NORMS):
            hooks.append(module.register_forward_pre_hook(set_statistics))
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            spread = [value for part, value in SPREAD.items() if part in name]
            if spread:
                hooks.append(module.register_forward_hook(partial(set_spread, spread=spread[0])))
    for name, module in model.named_modules():
        if name.endswith("bn3"):
            module.weight.fill_(RESIDUAL_SCALE)
    model(list(images))
    for hook in hooks:
        hook.remove()
    for layer in (model.roi_heads.box_predictor.cls_score, model.roi_heads.box_predictor.bbox_pred):
        layer.weight.mul_(boldness)


def set_statistics(norm: NORMS, inputs: tuple[Tensor]) -> None:
    norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
    norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))


def set_spread(layer: nn.Module, inputs: tuple[Tensor], output: Tensor, *, spread: float) -> Tensor | None:
    if getattr(layer, "calibrated", False) or output.numel() < 2:
        return None  # a layer shared by the levels is set once
    if layer.bias is None:
        return None  # a norm follows
    layer.calibrated = True
    scale = spread / output.std()
    layer.weight.mul_(scale)
    layer.bias.mul_(scale)
    return output * scale


def plain_means(model: MaskRCNN) -> MaskRCNN:
    """A copy with what anybody can do to torchvision's model: channels_last, frozen norms folded into convolutions.

    For inference: a trained convolution keeps its norm apart.
    """
    model = copy.deepcopy(model)
    for parent in model.modules():
        for (_, conv), (name, norm) in pairwise(list(parent.named_children())):  # a norm follows its convolution
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
                fold(conv, norm)
                setattr(parent, name, nn.Identity())
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    return model.to(memory_format=torch.channels_last)


@torch.no_grad()
def fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    conv.weight.mul_(scale[:, None, None, None])
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
