"""A config with what some weights need."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from maskrcnn.checkpoint import Weights
from maskrcnn.config import load_config


def config_for(config: str | Path, weights: Weights, overrides: Sequence[str]) -> CfgNode:
    """The config of a model that answers with these weights as the library that trained them.

    The overrides win over what the weights need. Where neither says the number of classes it is that of the weights, or
    stays 0 if they do not say.
    """
    needs = [item for key, value in weights.needs.items() for item in (key, json.dumps(value))]
    cfg = load_config(config, [*needs, *overrides])
    if cfg.MODEL.NUM_CLASSES or weights.class_names is None:
        return cfg
    return load_config(config, [*needs, *overrides, "MODEL.NUM_CLASSES", str(len(weights.class_names))])
