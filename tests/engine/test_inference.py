"""A model prepared for inference answers as it did before."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_config
from torch import nn

from maskrcnn.engine.inference import prepare_inference
from maskrcnn.engine.precision import Precision
from maskrcnn.modeling import build_model
from maskrcnn.modeling.layers import FrozenBatchNorm2d
from maskrcnn.structures import Sample

CPU = torch.device("cpu")
FP32, BF16 = Precision("cpu", torch.float32, "test"), Precision("cpu", torch.bfloat16, "test")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """With frozen norms that do something."""
    torch.manual_seed(0)
    model = build_model(tiny_config(Path(), "MODEL.BACKBONE.NORM=FrozenBN", "MODEL.NUM_CLASSES=3"))
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for buffer in module.buffers():
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def features(model: nn.Module, precision: Precision, image: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.inference_mode(), precision.autocast():
        return model.features(model.image_batch([Sample(image, 0, tuple(image.shape[-2:]))]))


def test_folded_norms_give_the_same_features(model):
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    prepared = prepare_inference(copy.deepcopy(model), CPU, FP32)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in prepared.modules())
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    expected, found = features(model, FP32, image), features(prepared, FP32, image)
    for name, value in expected.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4 * value.abs().max().item())


def test_weights_in_bf16_are_what_autocast_makes_of_them(model):
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    folded = prepare_inference(copy.deepcopy(model), CPU, FP32)
    prepared = prepare_inference(copy.deepcopy(model), CPU, BF16)
    assert prepared.backbone.stem.conv1.weight.dtype == torch.bfloat16
    expected, found = features(folded, BF16, image), features(prepared, BF16, image)
    for name, value in expected.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(found[name], value)
