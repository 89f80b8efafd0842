"""Registries: a config section names a class, and the class brings the section's options.

A part is a class registered under its own name. Its keyword-only constructor arguments, in capitals, are the options
of its section; what it gets from its surroundings (feature specs, class count) are its positional arguments. A class
with nested parts declares them by keyword when it registers:

    @ROI_HEADS.register(BOX_HEAD=BOX_HEADS, SAMPLER=Sampler)

A registry means a section with a NAME of its own; a class or dataclass means a plain section with that class's options.
Nested dataclasses are built from their sections. Whoever nests other parts, which need surroundings of their own,
writes `from_config(cls, section, *surroundings)`; all others are built from their options directly.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def closest(name: str, known: list[str]) -> str:
    """The end of an error message: ` (did you mean X?)`, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def options_of(part: Any) -> dict[str, Any]:
    """The options of a class or dataclass: its keyword-only (dataclass: all) arguments, in capitals, with defaults.

    Arguments that a nested section fills are not options. A required keyword has the value `inspect.Parameter.empty`.
    Of a dataclass instance (the default of a nested section, see `nested_of`) the defaults are its own values.
    """
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {field.name.upper(): getattr(part, field.name) for field in dataclasses.fields(part)}
    is_dataclass = dataclasses.is_dataclass(part)
    nested = declared(part)
    return {
        name.upper(): p.default
        for name, p in inspect.signature(part).parameters.items()
        if (p.kind is p.KEYWORD_ONLY or is_dataclass) and name.upper() not in nested
    }


def declared(part: Any) -> dict[str, Registry | type]:
    """The nested sections that a class declared when it was registered, by key."""
    nested: dict[str, Registry | type] = getattr(part, "__dict__", {}).get("_nested_sections", {})
    return nested


def nested_of(part: Any) -> dict[str, Any]:
    """The nested sections of a class, by key: a registry, a class, or the dataclass instance that is the default.

    `matcher: Matcher = Matcher(0.7, 0.3)` in the constructor gives the section MATCHER these defaults, so that two
    classes can nest one dataclass with different defaults, each written once.
    """
    nested: dict[str, Any] = dict(declared(part))
    if not nested:
        return nested
    parameters = inspect.signature(part).parameters
    for key, kind in nested.items():
        parameter = parameters.get(key.lower())
        if isinstance(kind, type) and parameter is not None and isinstance(parameter.default, kind):
            nested[key] = parameter.default
    return nested


def nests(**nested: Registry | type) -> Callable[[type[T]], type[T]]:
    """Class decorator that declares nested sections, as registering does, for a class that no registry holds."""

    def add(cls: type[T]) -> type[T]:
        cls._nested_sections = nested  # type: ignore[attr-defined]
        return cls

    return add


def build_part(part: type, section: Mapping[str, Any], *surroundings: Any) -> Any:
    """Build one class from its section: through `from_config` if it has one, else from its options.

    Args:
        section: the part's own section; extra keys were refused when the config was loaded.
        surroundings: the positional arguments, e.g. feature specs and the class count.
    """
    if hasattr(part, "from_config"):
        return part.from_config(section, *surroundings)
    return part(*surroundings, **kwargs_of(part, section))


def kwargs_of(part: type, section: Mapping[str, Any]) -> dict[str, Any]:
    """A section's options as keyword arguments, with its nested dataclasses built.

    Nested registries and other classes need surroundings, so `from_config` builds them.
    """
    kwargs = {key.lower(): section[key] for key in options_of(part) if key in section}
    for key, nested in declared(part).items():
        if dataclasses.is_dataclass(nested):
            kwargs[key.lower()] = build_part(nested, section[key])
    return kwargs


class Registry:
    """Classes by name, for one kind of section.

    Args:
        section: the config key whose NAME picks from this registry, for messages.
    """

    def __init__(self, section: str) -> None:
        self.section = section
        self._classes: dict[str, type] = {}

    def register(self, **nested: Registry | type) -> Callable[[type[T]], type[T]]:
        """Class decorator. Registering a name again replaces it, so that a notebook cell can run twice.

        Raises:
            ValueError: another class of that name, from another module, is registered.
        """

        def add(cls: type[T]) -> type[T]:
            known = self._classes.get(cls.__name__)
            if known is not None and known.__module__ != cls.__module__:
                raise ValueError(
                    f"{self.section}: {cls.__name__} of {cls.__module__} has the name of a class in {known.__module__}"
                )
            self._classes[cls.__name__] = nests(**nested)(cls)
            return cls

        return add

    def names(self) -> list[str]:
        return sorted(self._classes)

    def get(self, name: str) -> type:
        """The class of this name.

        Raises:
            ValueError: no such class; lists the known ones and the closest.
        """
        if name not in self._classes:
            raise ValueError(
                f"{self.section}.NAME: no class {name!r}{closest(name, self.names())}; known: {', '.join(self.names())}"
            )
        return self._classes[name]

    def build(self, section: Mapping[str, Any], *surroundings: Any) -> Any:
        """Build the part that `section["NAME"]` names; None when the name is empty."""
        return build_part(self.get(section["NAME"]), section, *surroundings) if section["NAME"] else None


class Names:
    """Functions or classes by a free name: data sets, evaluators and writers, which a list in the config names."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator. Registering a name again replaces it, so that a notebook cell can run twice."""

        def add(entry: T) -> T:
            self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return add

    def names(self) -> list[str]:
        return sorted(self._entries)

    def get(self, name: str) -> Callable[..., Any]:
        """Raises ValueError for an unknown name, with the known ones and the closest."""
        if name not in self._entries:
            raise ValueError(
                f"no {self.kind} {name!r}{closest(name, self.names())}; known: {', '.join(self.names()) or 'none'}"
            )
        return self._entries[name]


MODELS = Registry("MODEL")
BACKBONES = Registry("BACKBONE")
NECKS = Registry("NECK")
PROPOSALS = Registry("PROPOSALS")
ROI_HEADS = Registry("ROI_HEADS")
BOX_HEADS = Registry("BOX_HEAD")
MASK_HEADS = Registry("MASK_HEAD")
KEYPOINT_HEADS = Registry("KEYPOINT_HEAD")
SEMANTIC_HEADS = Registry("SEMANTIC_HEAD")
POINT_RENDS = Registry("POINT_REND")

DATASETS = Names("data set")
EVALUATORS = Names("evaluator")
WRITERS = Names("writer")
