"""Our own names in a .safetensors file, which no reader needs to trust: tensors, and text that says what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from maskrcnn.checkpoint.exporters.exported import Exported, as_json, plain
from maskrcnn.checkpoint.importers import Weights
from maskrcnn.checkpoint.weights import COUNTERS

# Keys of MODEL that change the answers, and that no name or shape of a tensor tells, wherever in the tree they stand.
CARRIED = (
    "CONVENTIONS",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "STRIDE_IN_1X1",
    "RES5_DILATION",
    "STRIDE",
    "SIZES",
    "RATIOS",
    "METHOD",
    "SAMPLING_RATIO",
    "PREDICTS",
    "SCORE",
)


def convert(weights: Weights, config: Mapping[str, Any]) -> Exported:
    """Tensors in our names; class names, category ids and the config keys that the tensors do not tell as metadata."""
    tensors = {name: plain(tensor) for name, tensor in weights.tensors.items() if not name.endswith(COUNTERS)}
    facts = {
        "class_names": weights.class_names,
        "category_ids": weights.category_ids,
        "conventions": config["MODEL"]["CONVENTIONS"],
        "needs": {
            **dict(_carried("MODEL", config["MODEL"])),
            "INPUT.SIZE_ROUNDING": config["INPUT"]["SIZE_ROUNDING"],
        },
    }
    return Exported(content=tensors, suffix=".safetensors", metadata=as_json(facts))


def _carried(path: str, section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            if value.get("NAME") != "":  # a part that is left out
                yield from _carried(f"{path}.{key}", value)
        elif key in CARRIED or (path.endswith(".CODER") and key == "WEIGHTS"):
            yield f"{path}.{key}", value
