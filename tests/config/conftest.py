"""A small tree of registered classes in place of the real ones, for tests of config files rather than of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from maskrcnn import registry
from maskrcnn.config import loader


@dataclass(frozen=True)
class Threshold:
    positive: float = 0.5
    negative: float = 0.5


class Pooler:
    def __init__(self, specs: object, *, size: int = 7, in_features: Sequence[str] = ("p2", "p3")) -> None: ...


class Detector:
    def __init__(self, backbone: object, heads: object, *, dropout: float = 0.0) -> None: ...


class Classifier:
    """Shares the backbone with Detector, and nothing else."""

    def __init__(self, backbone: object, *, smoothing: float = 0.1) -> None: ...


class Trunk:
    def __init__(
        self,
        *,
        depth: int = 50,
        norm: Literal["BN", "GN"] = "BN",
        out_features: Sequence[str] = ("res2", "res5"),
        sizes: Sequence[Sequence[float]] = ((32,), (64,)),
        freeze_at: int = 2,
        groups: Any = None,
    ) -> None: ...


class Exotic:
    """An annotation that only a type checker can resolve: the defaults have to tell the types."""

    def __init__(
        self,
        spec: OnlyForTypeCheckers,  # type: ignore[name-defined]  # noqa: F821
        *,
        depth: int = 50,
        rate: float = 0.5,
        sizes: Sequence[Sequence[float]] = ((32, 64), (128,)),
        mixed: tuple[float, ...] = (1, 0.5),
        empty: tuple[str, ...] = (),
    ) -> None: ...


class Stem:
    def __init__(self, *, depth: int, width: float, norm: str | None = None, levels: tuple[int, ...] = ()) -> None: ...


class Heads:
    def __init__(self, *, threshold: Threshold = Threshold(0.7, 0.3), score: float = 0.05) -> None: ...


class OtherHeads:
    def __init__(self, *, threshold: Threshold = Threshold(0.6), passes: int = 2) -> None: ...


class MaskHead:
    def __init__(self, *, num_convs: int = 4, conv_dim: int = 256, norm: str = "") -> None: ...


class EdgeHead:
    def __init__(self, *, conv_dim: int = 128, edge_weight: float = 0.5) -> None: ...


@pytest.fixture
def toy_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only these classes are registered."""
    for name in ("MODELS", "BACKBONES", "ROI_HEADS", "MASK_HEADS"):
        monkeypatch.setattr(getattr(registry, name), "_classes", {})
    registry.MODELS.register(BACKBONE=registry.BACKBONES, ROI_HEADS=registry.ROI_HEADS)(Detector)
    registry.MODELS.register(BACKBONE=registry.BACKBONES)(Classifier)
    registry.BACKBONES.register()(Trunk)
    registry.BACKBONES.register()(Stem)
    registry.BACKBONES.register()(Exotic)
    registry.ROI_HEADS.register(THRESHOLD=Threshold, MASK_HEAD=registry.MASK_HEADS, POOLER=Pooler)(Heads)
    registry.ROI_HEADS.register(THRESHOLD=Threshold, MASK_HEAD=registry.MASK_HEADS)(OtherHeads)
    registry.MASK_HEADS.register()(MaskHead)
    registry.MASK_HEADS.register()(EdgeHead)


@pytest.fixture(autouse=True)
def bare_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The current folder is an empty one, and no variable names a data root."""
    for variable in loader.ROOT_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
