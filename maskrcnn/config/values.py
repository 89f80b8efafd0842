"""Values against the types that their constructors declare: checks, and the few conversions that lose nothing."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import yaml

_SEQUENCES = (tuple, list, Sequence, Collection, Iterable)
_MAPPINGS = (dict, Mapping)


class ConfigError(ValueError):
    """Something in a config file or an override that the user can mend."""


class Text(str):
    """A value from the command line: not yet known to be text, a number or a list."""


class Mismatch(Exception):
    """A value is not of the expected type."""


def option_types(part: type, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The type of each option of a class: its annotation where there is one, else what its default value tells.

    Args:
        defaults: `registry.options_of(part)`.
    """
    try:
        hints = get_type_hints(part.__init__)  # type: ignore[misc]  # the signature is read, nothing is called
    except (NameError, AttributeError, TypeError):  # an annotation that only a type checker can resolve
        hints = {}
    hints = {name.upper(): hint for name, hint in hints.items()}
    return {key: hints.get(key, type_of(default)) for key, default in defaults.items()}


def type_of(default: Any) -> Any:
    """The type that a default value stands for: `(32, 64)` -> `tuple[int, ...]`; None and no default -> anything."""
    if default is None or default is inspect.Parameter.empty:
        return Any
    if not isinstance(default, (tuple, list)):
        return type(default)
    elements = {type_of(element) for element in default}
    if elements == {int, float}:
        elements = {float}
    return types.GenericAlias(tuple, (elements.pop() if len(elements) == 1 else Any, Ellipsis))


def convert(value: Any, expected: Any) -> Any:
    """The value as the expected type. Sequences become tuples; int -> float and "1e-3" -> 0.001 are the only casts.

    Raises:
        Mismatch: it is of another type.
    """
    if isinstance(value, Text):
        return _convert_text(value, expected)
    origin = get_origin(expected) or expected
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(expected))
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in get_args(expected)):
            return value
        raise Mismatch
    if origin in _SEQUENCES:
        return _convert_sequence(value, get_args(expected))
    if origin in _MAPPINGS or is_typeddict(expected):
        return _convert_mapping(value, expected)
    if origin is float:
        return _convert_float(value)
    if origin in (bool, int, str, types.NoneType):
        wanted = types.NoneType if expected is None else origin
        if type(value) is wanted:
            return value
        raise Mismatch
    return as_tuples(value)  # Any, or a type that no YAML value has: the constructor's own check must do


def _convert_text(text: Text, expected: Any) -> Any:
    readings: list[Any] = []
    for read in (ast.literal_eval, yaml.safe_load):
        try:
            readings.append(read(text))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, yaml.YAMLError):
            continue
    if not any(isinstance(reading, (list, tuple, dict)) for reading in readings):
        readings.append(str(text))  # a folder named 2024 is text after all
    for reading in readings:
        try:
            return convert(reading, expected)
        except Mismatch:
            continue
    raise Mismatch


def _convert_union(value: Any, arms: tuple[Any, ...]) -> Any:
    found: list[Any] = []
    for arm in arms:
        try:
            found.append(convert(value, arm))
        except Mismatch:
            continue
    if not found:
        raise Mismatch
    return next((v for v in found if type(v) is type(value)), found[0])  # 3 as `float | int` stays 3


def _convert_sequence(value: Any, elements: tuple[Any, ...]) -> tuple[Any, ...]:
    value = unquote_sequence(value)
    if not isinstance(value, (list, tuple)):
        raise Mismatch
    if not elements:
        return tuple(as_tuples(v) for v in value)
    if len(elements) == 1 or elements[1] is Ellipsis:
        return tuple(convert(v, elements[0]) for v in value)
    if len(elements) != len(value):
        raise Mismatch
    return tuple(convert(v, element) for v, element in zip(value, elements, strict=True))


def unquote_sequence(value: Any) -> Any:
    """`STEPS: (60000, 80000)`, as Detectron2's files have it, is text to YAML; here it is the tuple that is meant."""
    if isinstance(value, str) and value.strip().startswith(("(", "[")):
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            return value
    return value


def _convert_mapping(value: Any, expected: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Mismatch
    if is_typeddict(expected):
        hints = get_type_hints(expected)
        if set(value) != set(hints):
            raise Mismatch
        return {key: convert(value[key], hint) for key, hint in hints.items()}
    key_type, value_type = get_args(expected) or (Any, Any)
    return {convert(k, key_type): convert(v, value_type) for k, v in value.items()}


def _convert_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Mismatch
    try:
        return float(value)  # YAML reads 1e-3, without a dot, as text
    except ValueError:
        raise Mismatch from None


def as_tuples(value: Any) -> Any:
    """Lists at any depth as tuples, which is what a config holds."""
    if isinstance(value, (list, tuple)):
        return tuple(as_tuples(v) for v in value)
    if isinstance(value, Mapping):
        return {key: as_tuples(v) for key, v in value.items()}
    return value


def describe(expected: Any) -> str:
    """A type in words, for a message: `tuple[int, ...]` -> "a list of int"."""
    origin, arguments = get_origin(expected) or expected, get_args(expected)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arm) for arm in arguments)
    if origin in _SEQUENCES:
        if not arguments or arguments[0] is Any:
            return "a list"
        if len(arguments) == 1 or arguments[1] is Ellipsis:
            return f"a list of {describe(arguments[0])}"
        return f"a list of {len(arguments)}: " + ", ".join(describe(element) for element in arguments)
    if is_typeddict(expected):
        return "{" + ", ".join(f"{key}: {describe(hint)}" for key, hint in get_type_hints(expected).items()) + "}"
    if origin in _MAPPINGS:
        return "a mapping"
    if origin is types.NoneType:
        return "null"
    return getattr(origin, "__name__", str(origin))
