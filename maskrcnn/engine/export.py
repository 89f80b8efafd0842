"""A trained model's weights as a file for another library, or for anybody: safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from maskrcnn.checkpoint import fit
from maskrcnn.checkpoint.exporters import TARGETS, Exported, write
from maskrcnn.engine.predictor import read_trained
from maskrcnn.modeling import build_model


def export(
    run_folder_or_config: str | Path,
    output: str | Path,
    *,
    to: str,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Exported:
    """Write a trained model's weights, whole or not at all.

    Args:
        run_folder_or_config, weights, overrides: as for `Predictor`.
        output: the file; a name that ends in .safetensors, for the other targets in .pth.
        to: "safetensors", "detectron2" or "torchvision".

    Returns:
        What was written, with the settings that the other library needs for the same answers.

    Raises:
        CheckpointError: there are no weights, or not those of this model, or the target has no place for a part.
        ConfigError: the config is missing or wrong.
        OSError: the file could not be written.
        ValueError: no such target.
    """
    if to not in TARGETS:
        raise ValueError(f"to: {to!r} is not one of {', '.join(TARGETS)}")
    cfg, trained = read_trained(run_folder_or_config, weights=weights, overrides=overrides)
    with torch.device("meta"):
        model = build_model(cfg)
    fit(trained, model.state_dict(), strict=True)
    exported = TARGETS[to](trained, cfg)
    write(Path(output), exported)
    return exported
