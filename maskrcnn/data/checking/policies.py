"""What becomes of the entries in which something was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from maskrcnn.data.checking.problems import KINDS, Policy, name_of, show
from maskrcnn.data.records import Change

Entry: TypeAlias = dict[str, Any]
Repair: TypeAlias = Callable[[Entry], Entry | None]  # gives the mended entry, a new one; or None to drop it


def dropped(entry: Entry) -> None:
    """The repair of what cannot be mended."""


def replaced(entry: Entry, key: str, value: Any) -> Entry | None:
    """The entry with another value; None, as there is no value to put in, drops it."""
    return None if value is None else {**entry, key: value}


class Found(NamedTuple):
    """A problem of the entry at place `at` of its list, and how that entry can be mended."""

    at: int
    kind: str
    message: str
    repair: Repair = dropped


@dataclass(frozen=True)
class Settled:
    """A list of entries after a policy: `after` has each as it was, or mended, or None if it was dropped."""

    after: list[Entry | None]
    changes: list[Change]

    @property
    def kept(self) -> list[Entry]:
        return [entry for entry in self.after if entry is not None]


def settle(what: str, entries: Sequence[Entry], found: Iterable[Found], policy: Policy) -> Settled:
    """Apply a policy to what was found in a list of entries, which stays as it is.

    Args:
        what: "annotation", "image" or "category", for messages.
        policy: "error" leaves out what has an error, as "drop" does, so that the next check sees sound entries.
    """
    by_entry: dict[int, list[Found]] = defaultdict(list)
    for item in found:
        by_entry[item.at].append(item)
    after: list[Entry | None] = list(entries)
    changes = []
    for i, items in sorted(by_entry.items()):
        after[i] = _outcome(entries[i], items, policy)
        if after[i] is None or after[i] is not entries[i]:  # an entry that is no object may be null itself
            changes.append(_change(what, entries[i], after[i], items))
    return Settled(after, changes)


def _outcome(entry: Entry, found: Sequence[Found], policy: Policy) -> Entry | None:
    after: Entry | None = entry
    for item in found:
        severity = KINDS[item.kind].severity
        if after is None or severity == "note":
            continue
        if policy == "repair":
            after = item.repair(after)
        elif severity == "error":
            after = None
    return after


def _change(what: str, entry: Entry, after: Entry | None, found: Sequence[Found]) -> Change:
    where, kinds = name_of(what, entry), tuple(dict.fromkeys(item.kind for item in found))
    cause = "; ".join(item.message for item in found)
    if after is None:
        return Change(where, "dropped", cause, kinds)
    keys = [key for key in {**entry, **after} if entry.get(key) is not after.get(key)]
    before, now = (", ".join(f"{key} {show(e[key])}" for key in keys if key in e) for e in (entry, after))
    return Change(where, "changed", cause, kinds, before, now)
