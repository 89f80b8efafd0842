"""One annotation file gone through from top to bottom: every problem is collected, then a policy decides."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.checking import entries, images, masks, objects
from maskrcnn.data.checking.policies import Entry, Found, Settled, replaced, settle
from maskrcnn.data.checking.problems import POLICIES, Policy, Problem, name_of, show
from maskrcnn.data.checking.report import Report
from maskrcnn.data.records import Change

ROUNDS = 4  # of repairs: a mended box, say, can lie outside the image


def check_coco(
    json_path: str | Path, image_folder: str | Path | None = None, *, policy: Policy = "error", decode: int | None = 0
) -> Report:
    """Find everything that is wrong with an annotation file, and apply a policy to it.

    Args:
        image_folder: where the `file_name`s start from; None: the image files are not looked for.
        policy: "drop" leaves entries with an error out; "repair" mends what can be mended, warnings too, and drops the
            rest; "error" leaves out the same as "drop", but the report is one to refuse if there is any.
        decode: how many image files are read whole, a sample by a fixed seed; None: all.

    Raises:
        ValueError: there is no such policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r}; it must be {', '.join(POLICIES)}")
    path = Path(json_path)
    check = _Check(path, policy)
    with without_gc():
        try:
            data = entries.load(path)
        except entries.Unusable as error:
            return Report(str(path), policy, (Problem(error.kind, str(path), "", error.message),))
        content = check.everything(data, None if image_folder is None else Path(image_folder), decode)
    return Report(
        str(path),
        policy,
        tuple(check.problems),
        () if policy == "error" else tuple(check.changes),
        content,
        num_images=len(data["images"]),
        num_annotations=len(data["annotations"]),
    )


@contextmanager
def without_gc() -> Iterator[None]:
    """Without garbage collection: millions of small values without a cycle would double the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Check:
    """What was found and changed so far."""

    def __init__(self, path: Path, policy: Policy) -> None:
        self.path, self.policy = path, policy
        self.problems: list[Problem] = []
        self.changes: list[Change] = []

    def everything(self, data: dict[str, Any], folder: Path | None, decode: int | None) -> dict[str, Any]:
        """The content of the file after the policy."""
        kept_categories = self.categories(data["categories"])
        kept_images, copies = self.images(data["images"], folder, decode)
        kept = self.annotations(data, kept_images, kept_categories, copies)
        self.settled("image", kept_images, entries.without_annotations(kept_images, data["annotations"]))
        self.settled("category", kept_categories, entries.without_instances(kept_categories, data["annotations"]))
        return {**data, "images": kept_images, "annotations": kept, "categories": kept_categories}

    def categories(self, categories: Sequence[Any]) -> list[Entry]:
        checks = (entries.not_objects, entries.category_fields, entries.repeated_categories)
        kept = self.in_turn("category", categories, *checks)
        if not kept:
            self.nothing_left("no-categories", "categories", categories)
        return kept

    def images(
        self, listed: Sequence[Any], folder: Path | None, decode: int | None
    ) -> tuple[list[Entry], dict[int, int]]:
        """The images, and ids of copies that were left out with the ids of what they are copies of."""
        checks = (entries.not_objects, entries.image_fields, entries.image_sizes, entries.repeated_images)
        kept = self.in_turn("image", listed, *checks)
        copies = entries.copies_of_images(kept)
        kept = self.in_turn("image", kept, partial(entries.listed_twice, copies=copies))
        if not kept:
            self.nothing_left("no-images", "images", listed)
        elif folder is not None and not folder.is_dir():
            self.fatal("no-image-folder", f"the images should be in {folder}, which is no folder")
        elif folder is not None:
            kept = self.image_files(kept, folder, decode)
        return kept, copies if self.policy == "repair" else {}

    def image_files(self, listed: list[Entry], folder: Path, decode: int | None) -> list[Entry]:
        missing = images.missing_files(listed, folder)
        if len(listed) > 1 and sum(item.kind == "image-missing" for item in missing) == len(listed):
            first, there = show(listed[0]["file_name"]), images.some_file(folder)
            holds = f"which has {show(there)}" if there else "which is empty"
            message = f"none of the {len(listed)} image files, such as {first}, is in {folder}, {holds}"
            self.fatal("no-image-files", message)
            return listed
        kept = self.settled("image", listed, missing).kept
        return self.settled("image", kept, images.damaged_files(kept, folder, decode)).kept

    def annotations(
        self, data: dict[str, Any], images: list[Entry], categories: list[Entry], copies: dict[int, int]
    ) -> list[Entry]:
        readable = self.in_turn("annotation", data["annotations"], entries.not_objects)
        kept = self.in_turn("annotation", readable, entries.annotation_fields)
        kept = self.moved(kept, copies)
        kept = self.without_lost(kept, "image", "image_id", data["images"], images)
        kept = self.without_lost(kept, "category", "category_id", data["categories"], categories)
        known = {image["id"] for image in images}, {category["id"] for category in categories}
        references = partial(entries.unknown_references, image_ids=known[0], category_ids=known[1])
        kept = self.in_turn("annotation", kept, references, entries.repeated_annotations)
        if self.policy == "error":  # of entries that have an error already, those of other fields are listed too
            sound = {id(annotation) for annotation in kept}
            kept = [a for a in self.objects(readable, sizes_of(readable, images)) if id(a) in sound]
        else:
            kept = self.objects(kept, sizes_of(kept, images))
        return self.in_turn("annotation", kept, masks.missing_masks)

    def moved(self, annotations: list[Entry], copies: dict[int, int]) -> list[Entry]:
        """The annotations of copies go to the image that those are copies of."""
        found = [
            Found(
                i,
                "duplicate-file-name",
                f"'image_id' is {a['image_id']}, which is left out as a copy of {copies[a['image_id']]}",
                partial(replaced, key="image_id", value=copies[a["image_id"]]),
            )
            for i, a in enumerate(annotations)
            if a["image_id"] in copies
        ]
        settled = settle("annotation", annotations, found, self.policy)
        self.changes += settled.changes
        return settled.kept

    def without_lost(
        self, annotations: list[Entry], what: str, key: str, listed: Sequence[Any], kept: Sequence[Entry]
    ) -> list[Entry]:
        """Without those whose image or category was left out, which was reported once, for that one.

        One without an id may be that of any annotation that refers to none of the others.
        """
        known = {entry["id"] for entry in kept}
        ids = {entries.as_integer(entry.get("id")) for entry in listed if isinstance(entry, dict)}
        left = []
        for annotation in annotations:
            id_ = annotation[key]
            if id_ not in known and (id_ in ids or None in ids):
                cause = f"{what} {id_} was dropped"
                self.changes.append(Change(name_of("annotation", annotation), "dropped", cause, ()))
            else:
                left.append(annotation)
        return left

    def objects(self, annotations: list[Entry], sizes: np.ndarray) -> list[Entry]:
        """The fields that describe the objects; what was mended is looked at again."""
        found, convention = objects_found(annotations, sizes, whole=True)
        if convention:
            self.fatal(*convention)
        after = self.settled("annotation", annotations, found).after
        changed = [i for i, entry in enumerate(after) if entry is not annotations[i]]
        for policy in (*[self.policy] * (ROUNDS - 1), "drop"):
            again = {i: entry for i in changed if (entry := after[i]) is not None}
            if not again:
                break
            some = list(again.values())
            found, _ = objects_found(some, sizes[list(again)], whole=False)
            settled = settle("annotation", some, found, policy)
            self.changes += settled.changes
            for i, entry in zip(again, settled.after, strict=True):
                after[i] = entry
            changed = [i for i, entry in again.items() if after[i] is not entry]
        return [entry for entry in after if entry is not None]

    def in_turn(
        self, what: str, listed: Sequence[Any], *checks: Callable[[Sequence[Entry]], Iterable[Found]]
    ) -> list[Entry]:
        """What is left of a list after one check after the other, each of which sees what the one before it left."""
        kept = list(listed)
        for check in checks:
            kept = self.settled(what, kept, check(kept)).kept
        return kept

    def settled(self, what: str, listed: Sequence[Entry], found: Iterable[Found]) -> Settled:
        found = list(found)
        for item in found:
            where = name_of(what, listed[item.at])
            self.problems.append(Problem(item.kind, str(self.path), where, item.message))
        settled = settle(what, listed, found, self.policy)
        self.changes += settled.changes
        return settled

    def nothing_left(self, kind: str, key: str, listed: Sequence[Any]) -> None:
        if not listed:
            self.fatal(kind, f"'{key}' is empty")
        elif self.policy != "error":  # else their errors say it
            self.fatal(kind, f"of {len(listed)} '{key}' none is left")

    def fatal(self, kind: str, message: str) -> None:
        self.problems.append(Problem(kind, str(self.path), "", message))


def objects_found(
    annotations: Sequence[Entry], sizes: np.ndarray, *, whole: bool
) -> tuple[list[Found], tuple[str, str] | None]:
    """What is wrong with what annotations say of their objects; of masks first, from which boxes are mended.

    Args:
        sizes: float64 (n, 2), (h, w) of their images, NaN where not known.
        whole: these are the annotations of a whole file, which may use another convention for its boxes.

    Returns:
        what is wrong with single annotations; and kind and message if the boxes are of another convention, which is
        then the one thing to say of where they are.
    """
    extents, found = masks.masks_of(annotations, sizes)
    boxes, of_form = objects.boxes_of(annotations, sizes)
    found += of_form
    convention = objects.wrong_convention(boxes, sizes) if whole else None
    if convention is None:
        found += objects.placement(annotations, boxes, sizes)
        found += objects.agreement(annotations, boxes, extents, sizes)
    for check in (objects.areas, objects.crowds, objects.keypoints):
        found += check(annotations)
    return found, convention


def sizes_of(annotations: Sequence[Entry], images: Sequence[Entry]) -> np.ndarray:
    """(h, w) of the image of each annotation, NaN for one that is not known: float64 (n, 2)."""
    unknown = (np.nan, np.nan)
    by_id = {image["id"]: (image["height"], image["width"]) for image in images}
    ids = (annotation.get("image_id") for annotation in annotations)
    rows = [by_id.get(id_, unknown) if entries.is_integer(id_) else unknown for id_ in ids]
    return np.array(rows, dtype=float).reshape(-1, 2)
