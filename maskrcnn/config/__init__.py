"""Configuration: YAML files with inheritance, command-line overrides, and sections that name classes."""

from maskrcnn.config.files import config_path, lineage
from maskrcnn.config.loader import (
    COMMAND_LINE,
    data_root,
    default_values,
    dump,
    format_config,
    format_value,
    load_config,
    trace_config,
)
from maskrcnn.config.sections import DEFAULT
from maskrcnn.config.trees import leaves
from maskrcnn.config.values import ConfigError

__all__ = [
    "COMMAND_LINE",
    "DEFAULT",
    "ConfigError",
    "config_path",
    "data_root",
    "default_values",
    "dump",
    "format_config",
    "format_value",
    "leaves",
    "lineage",
    "load_config",
    "trace_config",
]
