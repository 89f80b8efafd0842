"""One section of the config while files are merged into it: what it accepts, what it was given, and by which file."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from yacs.config import CfgNode

from maskrcnn.config.moved_keys import moved
from maskrcnn.config.values import (
    ConfigError,
    Mismatch,
    Text,
    as_tuples,
    convert,
    describe,
    option_types,
    unquote_sequence,
)
from maskrcnn.registry import Registry, closest, declared, nested_of, options_of

DEFAULT = "default"  # the origin of a value that no file gave

# A single value is meant as a list of one here, and only here.
ONE_OR_MORE = {
    *("IMPORTS", "MODEL.WEIGHTS", "DATASETS.TRAIN", "DATASETS.TEST"),
    *("DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"),
}


class Section:
    """A node of the config tree.

    Args:
        key: the full key of the section, "" for the root.
        kind: a registry (the section is a part, whose NAME picks the class), or the class itself.
        fixed: for a part: a class with the keys that the section has whichever class it names.
        sections: for a class of the root: its nested sections; default those that the class was registered with.
    """

    def __init__(
        self, key: str, kind: Registry | type, *, fixed: type | None = None, sections: dict[str, Section] | None = None
    ) -> None:
        self.key, self.kind, self.fixed = key, kind, fixed
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.sections: dict[str, Section] = {}
        self.part: type | None = None
        self.presets: dict[str, Any] = {}  # defaults that the class around this section has for it
        if sections is not None and isinstance(kind, type):
            self.part, self.sections = kind, sections
        else:
            self._take_class(self._class_of(self.name) if isinstance(kind, Registry) else kind)

    @property
    def name(self) -> str:
        """The class that a part names; "" leaves it out."""
        default: str = options_of(self.fixed).get("NAME", "") if self.fixed else ""
        name: str = self.values.get("NAME", default)
        return name

    def merge(self, given: Mapping[Any, Any], origin: str, root: Section) -> None:
        """Take what one file, or the command line, gives for this section.

        Raises:
            ConfigError: an unknown key or class, a value of the wrong type, options for a part that is left out.
        """
        if isinstance(self.kind, Registry) and "NAME" in given:
            self._rename(self._checked("NAME", given["NAME"], str, origin), origin)
        types, defaults = self._option_types(), self._defaults()
        for key, value in given.items():
            if key in self.sections:
                self.sections[key].merge(self._mapping(key, value, origin), origin, root)
            elif key == "NAME" and isinstance(self.kind, Registry):
                continue
            elif key in defaults:
                self.values[key] = self._checked(key, value, types[key], origin)
                self.origins[key] = origin
            else:
                raise ConfigError(f"{origin}: {self._unknown(key, value, root)}")

    def expand(self) -> CfgNode:
        """This section with every default filled in.

        Raises:
            ConfigError: an unknown class.
        """
        node = CfgNode()
        if isinstance(self.kind, Registry):
            if self.name and self.part is None:
                raise ConfigError(f"{self.origins.get('NAME', DEFAULT)}: {self._no_class(self.name)}")
            node["NAME"] = self.name
        for key, default in self._defaults().items():
            node[key] = self.values.get(key, as_tuples(default))
        for key, section in self.sections.items():
            node[key] = section.expand()
        return node

    def missing(self) -> Iterator[str]:
        """The full keys that have no default and were not given."""
        for key, default in self._defaults().items():
            if default is inspect.Parameter.empty and key not in self.values:
                yield self.full(key)
        for section in self.sections.values():
            yield from section.missing()

    def traced(self) -> Iterator[tuple[str, str]]:
        """Every full key with its origin, in the order of `expand`."""
        keys = (["NAME"] if isinstance(self.kind, Registry) else []) + list(self._defaults())
        for key in keys:
            yield self.full(key), self.origins.get(key, DEFAULT)
        for section in self.sections.values():
            yield from section.traced()

    def full(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def _class_of(self, name: str) -> type | None:
        assert isinstance(self.kind, Registry)
        return self.kind.get(name) if name in self.kind.names() else None

    def _take_class(self, part: type | None) -> None:
        """Another class: its options start from their defaults; a nested section of the same kind stays as it is."""
        kinds, nested = declared(part), nested_of(part)
        kept = {key: s for key, s in self.sections.items() if kinds.get(key) is s.kind}
        self.sections = {key: kept.get(key) or Section(self.full(key), kind) for key, kind in kinds.items()}
        for key, section in self.sections.items():
            is_instance = not isinstance(nested[key], (Registry, type))
            section.presets = options_of(nested[key]) if is_instance else {}
        self.part = part

    def _rename(self, name: str, origin: str) -> None:
        part = self._class_of(name)
        if name and part is None:
            raise ConfigError(f"{origin}: {self._no_class(name)}")
        if part is not self.part:
            own = options_of(self.fixed) if self.fixed else {}
            self.values = {key: value for key, value in self.values.items() if key in own}
            self.origins = {key: file for key, file in self.origins.items() if key in own}
            self._take_class(part)
        self.values["NAME"], self.origins["NAME"] = name, origin

    def _defaults(self) -> dict[str, Any]:
        """The options, without NAME and nested sections, with their defaults."""
        defaults: dict[str, Any] = options_of(self.fixed) if self.fixed else {}
        defaults |= options_of(self.part) if self.part else {}
        defaults |= self.presets
        if isinstance(self.kind, Registry):
            defaults.pop("NAME", None)
        return defaults

    def _option_types(self) -> dict[str, Any]:
        types: dict[str, Any] = {}
        for cls in (self.fixed, self.part):
            if cls is not None:
                types |= option_types(cls, options_of(cls))
        return types

    def _checked(self, key: str, value: Any, expected: Any, origin: str) -> Any:
        full, default = self.full(key), self._defaults().get(key)
        if value is None and default is None:
            return None
        if full in ONE_OR_MORE:
            value = unquote_sequence(value)
        try:
            converted = convert(value, expected)
        except Mismatch:
            if isinstance(value, Mapping) and (remedy := moved(full, value)):
                raise ConfigError(f"{origin}: {remedy}") from None
            example = f", like {_as_lists(default)}" if isinstance(default, (tuple, list)) and default else ""
            given = repr(str(value)) if isinstance(value, Text) else f"{value!r} ({type(value).__name__})"
            raise ConfigError(f"{origin}: {full} is {given}; expected {describe(expected)}{example}") from None
        if full in ONE_OR_MORE and not isinstance(converted, tuple):
            return (converted,) if converted else ()
        return converted

    def _mapping(self, key: str, value: Any, origin: str) -> Mapping[Any, Any]:
        if isinstance(value, Mapping):
            return value
        section = self.sections[key]
        keys = ", ".join([*(["NAME"] if isinstance(section.kind, Registry) else []), *section._defaults()])
        raise ConfigError(f"{origin}: {self.full(key)} is {value!r}, but it is a section; expected a mapping of {keys}")

    def _no_class(self, name: str) -> str:
        assert isinstance(self.kind, Registry)
        known = self.kind.names()
        return f"{self.full('NAME')}: no class {name!r}{closest(name, known)}; known: {', '.join(known) or 'none'}"

    def _unknown(self, key: Any, value: Any, root: Section) -> str:
        full = self.full(str(key))
        if remedy := moved(full, value):
            return remedy
        is_part = isinstance(self.kind, Registry)
        if isinstance(self.kind, Registry) and self.part is None:
            return (
                f"{full} is given, but {self.full('NAME')} is empty, which leaves the part out; "
                f"name one of {', '.join(self.kind.names())}, or drop the key"
            )
        accepted = [*(["NAME"] if is_part else []), *self._defaults(), *self.sections]
        message = f"unknown key {full}{self._near(str(key), accepted, root)}"
        if isinstance(self.kind, Registry):
            others = [n for n in self.kind.names() if key in _accepted_by(self.kind.get(n))]
            if others:
                message += f"; {key} belongs to {' and '.join(others)}, but {self.full('NAME')} is {self.name}"
        owner = f"{self.key or 'the top level'}{f' ({self.name})' if is_part else ''}"
        return f"{message}; {owner} accepts {', '.join(accepted) or 'no keys'}"

    def _near(self, key: str, accepted: list[str], root: Section) -> str:
        """The closest keys: a typo in this section, a key of this name in another one, or a near full key."""
        if near := closest(key.upper(), accepted):
            return near
        everywhere = [full for full, _ in root.traced()]
        if same := [full for full in everywhere if full.rpartition(".")[2] == key.upper()][:3]:
            return f" (did you mean {' or '.join(same)}?)"
        return closest(self.full(key).upper(), everywhere)


def _accepted_by(part: type) -> set[str]:
    return {*options_of(part), *declared(part)}


def _as_lists(value: Any) -> Any:
    return [_as_lists(v) for v in value] if isinstance(value, (list, tuple)) else value
