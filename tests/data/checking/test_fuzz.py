"""Random values in random places: the check never crashes, and what it leaves can be read."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from maskrcnn.data import read_coco
from maskrcnn.data.checking import check_coco, json_of, text_of

NAN, INF = float("nan"), float("inf")
JUNK = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**40, 0.5, -0.5, 1e9, 1e38, 1e308, NAN, INF, -INF),
    *("", "x", "5", " 7 ", "--3", "\0", "\ud800", "é", "1" * 300, "../../x"),
    *([], [[]], [None], [1, 2, 3], [NAN] * 4, [1.0] * 6, [[1, 2, 3, 4, 5, 6]], [[[1]]], list(range(51)), [0] * 51),
    *({}, {"id": 1}, {"size": [60, 80], "counts": "~"}, {"size": [60, 80], "counts": [4800]}, {"counts": []}),
    *({"size": [60, 80], "counts": [2**40]}, {"size": [60.0, 80.0], "counts": [4000, 800]}, {"size": None}),
]
ROUNDS = 40


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value, with every key or index in it."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def spoil(data: dict[str, Any], rng: random.Random) -> None:
    for _ in range(rng.randint(1, 6)):
        sections = [(data[key], i) for key in data if isinstance(data[key], list) for i in range(len(data[key]))]
        container, key = rng.choice(sections)  # an entry first, or most would fall into the longest list of numbers
        inside = list(places(container[key]))
        if inside and rng.random() < 0.9:
            container, key = rng.choice([place for place in inside if isinstance(place[0], dict)] or inside)
        if rng.random() < 0.1:
            container, key = rng.choice([*inside, (container, key)])
        if rng.random() < 0.15 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif rng.random() < 0.15:
            del container[key]
        else:
            container[key] = copy.deepcopy(rng.choice(JUNK))


@pytest.mark.parametrize("seed", range(5))
def test_no_junk_crashes_the_check(clean: Any, seed: int) -> None:
    rng = random.Random(seed)
    original = copy.deepcopy(clean.data)
    refused = 0
    for _ in range(ROUNDS):
        clean.data = copy.deepcopy(original)
        spoil(clean.data, rng)
        clean.write()
        json.dumps(json_of(check_coco(clean.json_path, clean.images)))
        for policy in ("drop", "repair"):
            report = check_coco(clean.json_path, clean.images, policy=policy)
            assert text_of(report).isprintable() or "\n" in text_of(report)
            text_of(report).encode()
            refused += report.refused
            if report.refused:
                continue
            written = clean.json_path.with_name("written.json")
            written.write_text(json.dumps(report.content))
            again = check_coco(written, clean.images)
            assert not again.errors, (clean.data, again.errors)
            for record in read_coco(written, clean.images):
                assert all((o.box[2:] >= o.box[:2]).all() for o in record.objects)
    assert refused < ROUNDS, "most junk can be left out"
