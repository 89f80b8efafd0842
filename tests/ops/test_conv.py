"""Convolution whose weight gradient is computed by matrix products: torch's own is the oracle."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maskrcnn.ops import conv
from maskrcnn.ops.conv import conv2d, weight_gradient

SHAPES = [
    ((2, 5, 20, 31), (7, 5, 3, 3), (1, 1), (1, 1)),
    ((1, 4, 21, 18), (3, 4, 3, 3), (2, 2), (1, 1)),
    ((3, 2, 16, 24), (4, 2, 7, 7), (2, 2), (3, 3)),
    ((2, 3, 9, 40), (2, 3, 1, 5), (1, 3), (0, 2)),
    ((1, 3, 6, 6), (2, 3, 3, 2), (2, 1), (0, 0)),
    ((0, 3, 20, 20), (2, 3, 3, 3), (1, 1), (1, 1)),
]


@pytest.mark.parametrize(("x_shape", "shape", "stride", "padding"), SHAPES)
def test_the_gradient_of_the_weight_is_torchs(x_shape, shape, stride, padding):
    torch.manual_seed(0)
    x = torch.randn(x_shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = F.conv2d(x, weight, None, stride, padding)
    grad = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, weight, grad)
    found = weight_gradient(x, grad, shape[2:], stride, padding)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients_are_those_of_f_conv2d(monkeypatch, bias, stride):
    calls = []
    monkeypatch.setattr(conv, "weight_gradient", lambda *a: calls.append(1) or weight_gradient(*a))
    torch.manual_seed(0)
    x = torch.randn(2, 8, 30, 24).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(6, 8, 3, 3, requires_grad=True)
    inputs = [x, weight, *([torch.randn(6, requires_grad=True)] if bias else [])]
    out = conv2d(x, weight, inputs[2] if bias else None, (stride, stride), (1, 1))
    expected = F.conv2d(x, weight, inputs[2] if bias else None, stride, 1)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert calls == [1]


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w: (x.contiguous(), w, {}),
        lambda x, w: (x.double(), w.double(), {}),
        lambda x, w: (x, w.detach(), {}),
        lambda x, w: (x, w[:, :4], {"groups": 2}),
        lambda x, w: (x, w, {"dilation": (2, 2)}),
        lambda x, w: (x, w[:, :, :1, :1], {}),
        lambda x, w: (x[:, :, :6, :6].contiguous(memory_format=torch.channels_last), w, {}),
    ],
    ids=["contiguous", "float64", "frozen", "groups", "dilation", "1x1", "small"],
)
def test_elsewhere_torchs_own_gradient_serves(monkeypatch, change):
    monkeypatch.setattr(conv, "weight_gradient", None)
    x = torch.randn(1, 8, 30, 24, requires_grad=True).contiguous(memory_format=torch.channels_last)
    x, weight, options = change(x, torch.randn(6, 8, 3, 3, requires_grad=True))
    padding = (weight.shape[2] // 2,) * 2
    found = conv2d(x, weight, None, padding=padding, **options)
    torch.testing.assert_close(found, F.conv2d(x, weight, None, 1, padding, **options))
    found.sum().backward()


def test_under_autocast_torchs_own_convolution_serves(monkeypatch):
    monkeypatch.setattr(conv, "weight_gradient", None)
    x = torch.randn(1, 8, 30, 24).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(6, 8, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv2d(x, weight, None, (1, 1), (1, 1))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
