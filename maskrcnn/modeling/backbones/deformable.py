"""Deformable convolution (Dai et al. 2017; modulated: Zhu et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from maskrcnn.modeling.layers import ConvNorm


class DeformConvNorm(ConvNorm):
    """`ConvNorm` whose taps move, for each output pixel, by offsets that another convolution of the input predicts.

    Offsets start at zero: at first it is the plain convolution. Modulated taps also have a weight in 0..1 each, which
    starts at 1/2 (Zhu et al. §3.2), so that at first it is half of it.

    `offset` gives (y, x) of each tap, row by row, then the logits of the weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: str = "",
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        modulated: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, norm=norm, stride=stride, dilation=dilation, groups=groups
        )
        self.taps, self.modulated = kernel_size**2, modulated
        channels = (3 if modulated else 2) * self.taps
        self.offset = nn.Conv2d(in_channels, channels, kernel_size, stride, dilation * (kernel_size // 2), dilation)
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        predicted = self.offset(x)
        # In float32: bfloat16 would round where a tap reads, and torchvision's operator wants one type of all.
        with torch.autocast(x.device.type, enabled=False):
            offset, modulation = predicted.float().split([2 * self.taps, predicted.shape[1] - 2 * self.taps], dim=1)
            out: Tensor = deform_conv2d(
                x.float(),
                offset,
                weight.float(),
                None if bias is None else bias.float(),
                self.stride,
                self.padding,
                self.dilation,
                mask=modulation.sigmoid() if self.modulated else None,
            )
        return out.to(predicted.dtype)
