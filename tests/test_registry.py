"""What a class declares is what its section holds, and sections build classes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from maskrcnn.registry import Names, Registry, build_part, closest, kwargs_of, nested_of, options_of

HEADS = Registry("HEAD")
STAGES = Registry("STAGE")


@dataclass(frozen=True)
class Threshold:
    positive: float = 0.5
    negative: float = 0.5


@HEADS.register()
class Head:
    def __init__(self, channels: int, num_classes: int = 80, *, width: int = 256, norm: str) -> None:
        self.arguments = (channels, num_classes, width, norm)


@HEADS.register(THRESHOLD=Threshold)
class ThresholdHead:
    def __init__(self, channels: int, *, threshold: Threshold = Threshold(0.7, 0.3), score: float = 0.1) -> None:
        self.arguments = (channels, threshold, score)


@STAGES.register(HEAD=HEADS, MATCHER=Threshold)
class Stage:
    def __init__(self, head: Any, *, matcher: Threshold, passes: int = 1) -> None:
        self.head, self.matcher, self.passes = head, matcher, passes

    @classmethod
    def from_config(cls, section: Mapping[str, Any], channels: int) -> Stage:
        return cls(HEADS.build(section["HEAD"], channels), **kwargs_of(cls, section))


def test_options_are_the_keyword_only_arguments_in_capitals() -> None:
    assert options_of(Head) == {"WIDTH": 256, "NORM": inspect.Parameter.empty}
    assert options_of(ThresholdHead) == {"SCORE": 0.1}  # what a nested section fills is no option
    assert options_of(Stage) == {"PASSES": 1}


def test_a_dataclass_has_all_its_fields_as_options_and_an_instance_its_values() -> None:
    assert options_of(Threshold) == {"POSITIVE": 0.5, "NEGATIVE": 0.5}
    assert options_of(Threshold(0.7)) == {"POSITIVE": 0.7, "NEGATIVE": 0.5}


def test_nested_sections_with_the_default_of_the_class_around_them() -> None:
    assert nested_of(Head) == {}
    assert nested_of(ThresholdHead) == {"THRESHOLD": Threshold(0.7, 0.3)}
    assert nested_of(Stage) == {"HEAD": HEADS, "MATCHER": Threshold}


def test_a_subclass_does_not_inherit_what_was_declared_for_another_class() -> None:
    class Derived(ThresholdHead):
        pass

    assert nested_of(Derived) == {}


def test_a_part_is_built_from_its_options() -> None:
    assert HEADS.build({"NAME": "Head", "WIDTH": 8, "NORM": "GN"}, 64, 3).arguments == (64, 3, 8, "GN")
    assert build_part(Head, {"NORM": "GN"}, 64).arguments == (64, 80, 256, "GN")  # by hand: the defaults hold


def test_plain_nested_sections_are_built_on_the_way() -> None:
    section = {"NAME": "ThresholdHead", "SCORE": 0.2, "THRESHOLD": {"POSITIVE": 0.6, "NEGATIVE": 0.4}}
    assert HEADS.build(section, 64).arguments == (64, Threshold(0.6, 0.4), 0.2)


def test_from_config_builds_nested_parts() -> None:
    section = {
        "NAME": "Stage",
        "PASSES": 2,
        "MATCHER": {"POSITIVE": 0.6, "NEGATIVE": 0.6},
        "HEAD": {"NAME": "Head", "WIDTH": 8, "NORM": ""},
    }
    stage = STAGES.build(section, 16)
    assert (stage.passes, stage.matcher, stage.head.arguments) == (2, Threshold(0.6, 0.6), (16, 80, 8, ""))


def test_an_empty_name_builds_nothing() -> None:
    assert HEADS.build({"NAME": ""}, 64) is None


def test_an_unknown_name_lists_the_known_and_the_closest() -> None:
    with pytest.raises(ValueError, match=r"HEAD.NAME: no class 'Haed' \(did you mean Head\?\); known: Head, Threshold"):
        HEADS.get("Haed")


def test_registering_twice_from_one_module_replaces() -> None:
    registry = Registry("X")

    def cell() -> type:
        @registry.register()
        class Part: ...

        return Part

    assert cell() is not cell()
    assert registry.names() == ["Part"]


def test_two_modules_cannot_share_a_name() -> None:
    registry = Registry("X")
    registry.register()(type("Part", (), {"__module__": "first"}))
    with pytest.raises(ValueError, match="X: Part of second has the name of a class in first"):
        registry.register()(type("Part", (), {"__module__": "second"}))


def test_names() -> None:
    names = Names("data set")
    with pytest.raises(ValueError, match="no data set 'cells'; known: none"):
        names.get("cells")

    @names.register("cells_train")
    def cells(root: str) -> str:
        return f"{root}/cells"

    assert names.get("cells_train")("data") == "data/cells" and names.names() == ["cells_train"]
    with pytest.raises(ValueError, match=r"no data set 'cell_train' \(did you mean cells_train\?\)"):
        names.get("cell_train")


def test_closest() -> None:
    assert closest("BASELR", ["BASE_LR", "GAMMA"]) == " (did you mean BASE_LR?)"
    assert closest("X", ["BASE_LR"]) == "" and closest("X", []) == ""
