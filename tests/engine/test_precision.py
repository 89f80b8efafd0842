from __future__ import annotations

import pytest
import torch

from maskrcnn.engine import precision
from maskrcnn.engine.precision import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("features", "amp", "dtype", "why"),
    [
        ({"avx2"}, "auto", torch.float32, "the CPU has neither AMX nor AVX512-BF16"),
        ({"avx2", "avx512_bf16"}, "auto", torch.bfloat16, "the CPU has avx512_bf16"),
        ({"amx_bf16", "amx_tile"}, "auto", torch.bfloat16, "the CPU has amx_bf16"),
        ({"amx_bf16"}, "fp32", torch.float32, "as asked"),
        ({"avx2"}, "bf16", torch.bfloat16, "as asked, but the CPU has neither AMX nor AVX512-BF16: slow"),
    ],
)
def test_precision_on_a_cpu(monkeypatch, features, amp, dtype, why):
    monkeypatch.setattr(precision, "cpu_features", lambda: features)
    chosen = choose_precision("SOLVER.AMP", amp, CPU)
    assert chosen.dtype == dtype
    assert why in str(chosen)
    with chosen.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert not chosen.scaler().is_enabled()


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match=r"TEST\.AMP is fp16 and the device the CPU"):
        choose_precision("TEST.AMP", "fp16", CPU)


@pytest.mark.parametrize(
    ("capability", "amp", "dtype"),
    [((7, 5), "auto", torch.float32), ((8, 0), "auto", torch.bfloat16), ((7, 5), "fp16", torch.float16)],
)
def test_precision_on_a_gpu(monkeypatch, capability, amp, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    assert choose_precision("SOLVER.AMP", amp, torch.device("cuda")).dtype == dtype
