"""The arithmetic that a model computes in: float32, or autocast to a 16-bit type."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from maskrcnn.env import cpu_features


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a forward pass: float32, or autocast to a 16-bit type. `why` is for the log."""

    device: str
    dtype: torch.dtype
    why: str

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """fp16 gradients underflow without a scale; for the other types this one does nothing."""
        return torch.amp.GradScaler(self.device, enabled=self.dtype == torch.float16)

    def cast_weights(self, model: nn.Module) -> None:
        """Hold the weights of convolutions and linear layers in this type, in place, for inference alone.

        Autocast would round the same weights to the same values again for each image.
        """
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(self.dtype)

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} ({self.why})"


def choose_precision(key: str, amp: str, device: torch.device) -> Precision:
    """What `amp`, the value of the config key `key`, means on a device.

    "auto" takes bf16 where the hardware computes in it: emulated, it is ten times slower.

    Raises:
        ValueError: fp16 elsewhere than on a GPU: no CPU gains from it, and bf16 has its speed without a loss scale.
    """
    if amp == "fp16" and device.type == "cpu":
        raise ValueError(f"{key} is fp16 and the device the CPU, which gains nothing from it; use auto, bf16 or fp32")
    native, hardware = _bf16_hardware(device)
    if amp == "auto":
        return Precision(device.type, torch.bfloat16 if native else torch.float32, f"auto: {hardware}")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    emulated = amp == "bf16" and not native
    return Precision(device.type, dtype, f"as asked, but {hardware}: slow" if emulated else "as asked")


def _bf16_hardware(device: torch.device) -> tuple[bool, str]:
    """Whether the device computes in bf16 itself, and by what."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip is not None
        name = torch.cuda.get_device_name(device)
        return native, f"{name} {'has' if native else 'has no'} bf16 arithmetic"
    if device.type == "cpu":
        features = cpu_features()
        found = [name for name in ("amx_bf16", "avx512_bf16") if name in features]
        return bool(found), f"the CPU has {' and '.join(found)}" if found else "the CPU has neither AMX nor AVX512-BF16"
    return False, f"no bf16 known on {device.type}"
