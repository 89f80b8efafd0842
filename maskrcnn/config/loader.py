"""From files and overrides to one frozen tree of values, in which every named section holds its class's options."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from maskrcnn.config.defaults import SECTIONS, ModelKeys, TopLevel
from maskrcnn.config.files import config_path, import_parts, read_with_bases
from maskrcnn.config.sections import DEFAULT, Section
from maskrcnn.config.trees import leaves
from maskrcnn.config.values import ConfigError, Mismatch, Text, convert, unquote_sequence

COMMAND_LINE = "command line"
ROOT_VARIABLES = ("MASKRCNN_DATASETS", "DETECTRON2_DATASETS")
ROOT_DEFAULT = "./datasets"
_KEY = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """The config of a file: what it inherits, its own values, the overrides; checked, complete and frozen.

    Args:
        path: a file, or the name of a shipped config (`config_path`).
        overrides: KEY VALUE pairs, or KEY=VALUE.

    Raises:
        ConfigError: a missing or broken file, an unknown key or class, a value of the wrong type.
    """
    return trace_config(path, overrides)[0]


def trace_config(path: str | Path, overrides: Sequence[str] = ()) -> tuple[CfgNode, dict[str, str]]:
    """As `load_config`, with the origin of each value by full key: a file, "command line", "default" or a variable."""
    path = config_path(path)
    layers = [(_shown(file), file.parent, contents) for file, contents in read_with_bases(path)]
    layers.append((COMMAND_LINE, Path.cwd(), parse_overrides(overrides)))
    imports = dict(_import_all(layers))
    root = _root()
    for origin, _, contents in layers:
        root.merge(contents, origin, root)
    if imports:
        root.values["IMPORTS"], root.origins["IMPORTS"] = tuple(imports), ", ".join(dict.fromkeys(imports.values()))
    _fill_in_data_root(root.sections["DATASETS"])
    cfg = root.expand()
    if missing := list(root.missing()):
        raise ConfigError(f"{_shown(path)}: no value for {', '.join(missing)}, which {_has(missing)} no default")
    cfg.freeze()
    return cfg, dict(root.traced())


def default_values(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """By full key, what each option is where nobody gives a value, in the classes that a complete config names."""
    root = _root()
    root.merge(_names(cfg), DEFAULT, root)
    return dict(leaves(root.expand(), section=CfgNode))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """KEY VALUE pairs and KEY=VALUE items as a nested mapping of unread text.

    Raises:
        ConfigError: a key without a value, or something that is no key.
    """
    tree: dict[str, Any] = {}
    items = iter(overrides)
    for item in items:
        key, is_pair, value = item.partition("=")
        if not re.fullmatch(_KEY, key):
            raise ConfigError(f"{COMMAND_LINE}: {item!r} is no config key; expected KEY VALUE pairs or KEY=VALUE")
        if not is_pair:
            try:
                value = next(items)
            except StopIteration:
                raise ConfigError(f"{COMMAND_LINE}: no value follows {key}") from None
        *sections, option = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{COMMAND_LINE}: {key} lies inside a key that has a value of its own")
        node[option] = Text(value)
    return tree


def data_root() -> tuple[str, str]:
    """The folder of the registered data sets where no config names one, and where that comes from."""
    variable = next((name for name in ROOT_VARIABLES if os.environ.get(name)), None)
    return (os.environ[variable], f"${variable}") if variable else (ROOT_DEFAULT, "default")


def format_config(cfg: CfgNode, origins: Mapping[str, str]) -> str:
    """One line per key: `KEY: value   # where it comes from`."""
    lines = [(f"{key}: {format_value(value)}", origins.get(key, "")) for key, value in leaves(cfg, section=CfgNode)]
    width = min(max((len(line) for line, _ in lines), default=0), 72)
    return "\n".join(f"{line:<{width}}  # {origin}" for line, origin in lines)


def format_value(value: Any) -> str:
    """A value as one line of YAML."""
    text: str = yaml.dump(_plain(value), Dumper=_Dumper, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def dump(cfg: CfgNode) -> str:
    """YAML that `load_config` reads back to an equal config."""
    text: str = yaml.dump(
        _plain(cfg), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True
    )
    return text


class _Dumper(yaml.SafeDumper):
    """Writes a list that two keys share twice, instead of once with an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _plain(value: Any) -> Any:
    """Nodes as plain mappings, which YAML's dumper knows."""
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _root() -> Section:
    return Section("", TopLevel, sections={key: _section(key) for key in SECTIONS})


def _names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The NAMEs alone."""
    own = {"NAME": tree["NAME"]} if "NAME" in tree else {}
    return {**own, **{key: _names(node) for key, node in tree.items() if isinstance(node, CfgNode)}}


def _section(key: str) -> Section:
    return Section(key, SECTIONS[key], fixed=ModelKeys if key == "MODEL" else None)


def _import_all(layers: list[tuple[str, Path, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Import what the layers name, before any of their sections is read, and take it out of them."""
    for origin, folder, contents in layers:
        names = unquote_sequence(contents.pop("IMPORTS", ()))
        try:
            names = convert(names, str | tuple[str, ...])
        except Mismatch:
            raise ConfigError(f"{origin}: IMPORTS is {names!r}; expected a list of module names or .py files") from None
        for name in (names,) if isinstance(names, str) else names:
            yield import_parts(name, folder, origin), origin


def _fill_in_data_root(datasets: Section) -> None:
    if not datasets.values.get("ROOT"):
        datasets.values["ROOT"], datasets.origins["ROOT"] = data_root()


def _has(keys: list[str]) -> str:
    return "has" if len(keys) == 1 else "have"


def _shown(path: Path) -> str:
    """A path as a person in the current folder would type it."""
    resolved, here = path.resolve(), Path.cwd().resolve()
    return str(resolved.relative_to(here)) if resolved.is_relative_to(here) else str(resolved)
