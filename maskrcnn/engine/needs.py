"""What weights need of the config to answer as where they were trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from maskrcnn.checkpoint import CheckpointError, Weights
from maskrcnn.config import COMMAND_LINE, DEFAULT, default_values, format_value, leaves, load_config, trace_config

CLASSES = "MODEL.NUM_CLASSES"  # of the data; `checkpoint.take_classes` arranges those of the weights by name
NAME = ".NAME"  # how a key that names a class ends

logger = logging.getLogger(__name__)


def follow(cfg: CfgNode, needs: Mapping[str, Any], source: str, origins: Mapping[str, str] | None = None) -> CfgNode:
    """The config with what the weights need, except where somebody gave a value: that one stays, with a warning.

    With MODEL.FOLLOW_WEIGHTS off nothing changes, and each difference is a warning.

    Args:
        needs: config keys and values, of `Weights` or of a run's checkpoint.
        source: of the weights, for messages.
        origins: where values come from, by full key (`config.trace_config`), so that a value counts as given also where
            it is the default's. Empty or None: they are not known, and what differs from its default was given.
    """
    values = dict(leaves(cfg, section=CfgNode))
    given = set(_given(values, default_values(cfg), origins or {}))
    followed = cfg.clone()
    followed.defrost()
    for key, wanted in needs.items():
        if key == CLASSES or values.get(key) == wanted:
            continue
        if key not in values:
            _say_lacking(source, key, wanted)
        elif cfg.MODEL.FOLLOW_WEIGHTS and key not in given:
            *sections, option = key.split(".")
            node = followed
            for section in sections:
                node = node[section]
            node[option] = wanted
            _say_taken(source, key, wanted)
        else:
            _say_kept(source, key, values[key], wanted)
    followed.freeze()
    return followed


def _given(values: Mapping[str, Any], defaults: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[str]:
    """The keys that have their value from somebody. Names of classes always: their options belong to them."""
    for key, value in values.items():
        from_somebody = origins.get(key, DEFAULT) != DEFAULT if origins else value != defaults[key]
        if from_somebody or key.endswith(NAME):
            yield key


def _say_lacking(source: str, key: str, wanted: Any) -> None:
    logger.warning("%s: these weights want %s %s, which this model does not have", source, key, format_value(wanted))


def _say_taken(source: str, key: str, wanted: Any) -> None:
    logger.info("%s: %s is %s, as these weights want", source, key, format_value(wanted))


def _say_kept(source: str, key: str, value: Any, wanted: Any) -> None:
    logger.warning("%s: %s is %s, these weights want %s", source, key, format_value(value), format_value(wanted))


def fulfilled(cfg: CfgNode, needs: Mapping[str, Any]) -> dict[str, Any]:
    """The needs as the config meets them: what the checkpoints of a run from these weights need in their turn."""
    values = dict(leaves(cfg, section=CfgNode))
    return {key: values[key] for key in needs if key in values and key != CLASSES}


def config_for(
    config: str | Path, weights: Weights, overrides: Sequence[str], *, fixed: Collection[str] = ()
) -> CfgNode:
    """The config of a model that answers with these weights as the library that trained them, whatever the file says.

    The overrides win over what the weights need, and the file wins where their importer could only presume it. Where
    neither says the number of classes it is that of the weights, or stays 0 if they do not say. What of the file is
    replaced, and what stays against the weights, is a warning.

    Args:
        fixed: keys that the weights may not change.

    Raises:
        CheckpointError: the weights want another value for one of these.
        ConfigError: the file or the overrides are wrong.
    """
    _, origins = trace_config(config, overrides)
    taken = {key: value for key, value in weights.needs.items() if key.endswith(NAME) and key in origins}
    cfg, origins = trace_config(config, [*_as_overrides(taken), *overrides])  # other classes have other options
    values = dict(leaves(cfg, section=CfgNode))
    for key, wanted in weights.needs.items():
        origin = origins.get(key)
        if origin is None:
            _say_lacking(weights.source, key, wanted)
        elif values[key] == wanted:
            continue
        elif origin == COMMAND_LINE or (origin != DEFAULT and key in weights.presumed):
            if key != CLASSES:
                _say_kept(weights.source, key, values[key], wanted)
        elif key in fixed:
            raise CheckpointError(
                f"{weights.source}: these weights are of a model with {key} {format_value(wanted)}, but that of "
                f"{config} is {format_value(values[key])}; name the model that they are of"
            )
        else:
            taken[key] = wanted
            if origin == DEFAULT:
                _say_taken(weights.source, key, wanted)
            else:
                shown = format_value(wanted), format_value(values[key]), origin
                logger.warning("%s: %s is %s, as these weights want, in place of %s in %s", weights.source, key, *shown)
    needs = _as_overrides(taken)
    cfg = load_config(config, [*needs, *overrides])
    if cfg.MODEL.NUM_CLASSES or weights.class_names is None:
        return cfg
    return load_config(config, [*needs, *overrides, CLASSES, str(len(weights.class_names))])


def _as_overrides(needs: Mapping[str, Any]) -> list[str]:
    return [item for key, value in needs.items() for item in (key, json.dumps(value))]
