"""What weights need of the config to answer as where they were trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from maskrcnn.checkpoint import Weights
from maskrcnn.config import default_values, format_value, leaves, load_config

CLASSES = "MODEL.NUM_CLASSES"  # of the data; `checkpoint.take_classes` arranges those of the weights by name

logger = logging.getLogger(__name__)


def follow(cfg: CfgNode, needs: Mapping[str, Any], source: str) -> CfgNode:
    """The config with what the weights need in place of defaults. Another value that was given stays, with a warning.

    With MODEL.FOLLOW_WEIGHTS off nothing changes, and each difference is a warning.

    Args:
        needs: config keys and values, of `Weights` or of a run's checkpoint.
        source: of the weights, for messages.
    """
    values, defaults = dict(leaves(cfg, section=CfgNode)), default_values(cfg)
    followed = cfg.clone()
    followed.defrost()
    for key, wanted in needs.items():
        if key == CLASSES or values.get(key) == wanted:
            continue
        if key not in values:
            logger.warning("%s: these weights want %s %s, which this model does not have", source, key, wanted)
        elif cfg.MODEL.FOLLOW_WEIGHTS and values[key] == defaults[key]:
            *sections, option = key.split(".")
            node = followed
            for section in sections:
                node = node[section]
            node[option] = wanted
            logger.info("%s: %s is %s, as these weights want", source, key, format_value(wanted))
        else:
            shown = (format_value(value) for value in (values[key], wanted))
            logger.warning("%s: %s is %s, these weights want %s", source, key, *shown)
    followed.freeze()
    return followed


def fulfilled(cfg: CfgNode, needs: Mapping[str, Any]) -> dict[str, Any]:
    """The needs as the config meets them: what the checkpoints of a run from these weights need in their turn."""
    values = dict(leaves(cfg, section=CfgNode))
    return {key: values[key] for key in needs if key in values and key != CLASSES}


def config_for(config: str | Path, weights: Weights, overrides: Sequence[str]) -> CfgNode:
    """The config of a model that answers with these weights as the library that trained them, whatever the file says.

    The overrides win over what the weights need. Where neither says the number of classes it is that of the weights, or
    stays 0 if they do not say.
    """
    needs = [item for key, value in weights.needs.items() for item in (key, json.dumps(value))]
    cfg = load_config(config, [*needs, *overrides])
    if cfg.MODEL.NUM_CLASSES or weights.class_names is None:
        return cfg
    return load_config(config, [*needs, *overrides, CLASSES, str(len(weights.class_names))])
