"""How many of a trained model's detections in float32 it finds in bf16 too: of the same class, at an IoU of 0.9.

    python benchmarks/agreement.py OUTPUT_DIR

OUTPUT_DIR is the folder of a finished run, whose test set is used. Weights that were never trained would tell little:
the scores of their proposals lie so close together that rounding chooses among them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from mask_rcnn import matched

import maskrcnn
from maskrcnn.checkpoint import read_weights
from maskrcnn.engine.inference import prepare_inference
from maskrcnn.engine.inputs import build_mappers, read_test_sets
from maskrcnn.engine.precision import choose_precision
from maskrcnn.engine.state import load_weights
from maskrcnn.modeling import build_model
from maskrcnn.structures import Detections

CPU = torch.device("cpu")


def detections(run: Path, amp: str) -> list[Detections]:
    cfg = maskrcnn.load_config(run / "config.yaml", [])
    model = build_model(cfg)
    load_weights(model, read_weights(str(run / "model_final.pth")), strict=True)
    precision = choose_precision("amp", amp, CPU)
    prepare_inference(model, CPU, precision)
    _, mapper = build_mappers(cfg, model.task)
    test_set = next(iter(read_test_sets(cfg).values()))
    with torch.inference_mode(), precision.autocast():
        return [model.inference([mapper(record, np.random.default_rng(0))])[0] for record in test_set]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    exact, rounded = (detections(Path(sys.argv[1]), amp) for amp in ("fp32", "bf16"))
    for threshold in (0.05, 0.5):
        kept = [found[found.scores >= threshold] for found in exact]
        total = sum(map(len, kept))
        shared = sum(len(a) * matched(b, a) for a, b in zip(kept, rounded, strict=True) if len(a))
        print(f"score >= {threshold}: {100 * shared / max(total, 1):.1f}% of {total} detections")


if __name__ == "__main__":
    main()
