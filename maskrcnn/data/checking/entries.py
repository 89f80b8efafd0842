"""The outline of an annotation file, its categories and images, and which of them each annotation belongs to."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maskrcnn.data.checking.policies import Entry, Found, dropped, replaced
from maskrcnn.data.checking.problems import show

SECTIONS = ("images", "annotations", "categories")
IMAGE_INFO = "image_info"  # begins the names of COCO's files about test images, whose annotations are not public
MAX_ID = 2**63 - 1
MAX_SIDE = 2**31 - 1


class Unusable(Exception):
    """Of a file that cannot be gone through at all: the kind of its one problem and the message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def load(path: Path) -> dict[str, Any]:
    """The content of an annotation file, with a list of whatever in each of `SECTIONS`.

    A file of the name image_info*.json may lack annotations, and then has an empty list of them.

    Raises:
        Unusable: it is missing, not JSON, or has another outline.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise Unusable("no-file", f"no such annotation file (looked in {path.parent.absolute()})") from None
    except OSError as error:
        raise Unusable("no-file", f"the annotation file cannot be read: {error.strerror}") from error
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        hint = ""
        if text.lstrip()[:1] == b"<":
            hint = "; it starts like a web page: download it again"
        elif not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated"):
            hint = "; it ends too early: was a download cut off?"
        reason = f"{error.msg} at line {error.lineno}, column {error.colno}{hint}"
        raise Unusable("not-json", f"not a JSON file: {reason}") from None
    except UnicodeDecodeError:
        raise Unusable("not-json", "not a JSON file: it is not even text; unpack it if it is an archive") from None
    except (RecursionError, ValueError) as error:  # lists in lists in lists; a number of thousands of digits
        raise Unusable("not-json", f"not an annotation file: {error}") from None
    if not isinstance(data, dict):
        hint = " (a list is what results files hold)" if isinstance(data, list) else ""
        raise Unusable("wrong-top-level", f"holds {show(data)}, but a COCO annotation file is an object {{...}}{hint}")
    if path.name.startswith(IMAGE_INFO):
        data.setdefault("annotations", [])
    for key in SECTIONS:
        if key not in data:
            raise Unusable(
                "wrong-top-level",
                f"no '{key}'; a COCO annotation file has 'images', 'annotations' and 'categories', this one has "
                f"{', '.join(map(show, list(data)[:8])) or 'nothing'}",
            )
        if not isinstance(data[key], list):
            raise Unusable("wrong-top-level", f"'{key}' is {show(data[key])}, but must be a list")
    return data


def not_objects(entries: Sequence[Any]) -> Iterator[Found]:
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            yield Found(i, "entry-not-object", f"it is {show(entry)}, but must be an object {{...}}")


def category_fields(categories: Sequence[Entry]) -> Iterator[Found]:
    yield from _integers(categories, "id")
    for i, category in enumerate(categories):
        name = category.get("name")
        if "name" not in category:
            yield Found(i, "missing-field", "no 'name'", _named_by_id)
        elif not isinstance(name, str):
            repair = partial(replaced, key="name", value=str(name)) if _is_number(name) else _named_by_id
            yield Found(i, "wrong-type", f"'name' is {show(name)}, but must be a text", repair)


def _named_by_id(category: Entry) -> Entry:
    return {**category, "name": f"category {category['id']}"}


def repeated_categories(categories: Sequence[Entry]) -> Iterator[Found]:
    """Ids and names that several have; all entries have both."""
    yield from _repeated_ids(categories, "category", ("name",))
    first: dict[str, int] = {}
    for i, category in enumerate(categories):
        name, id_ = category["name"], category["id"]
        if first.setdefault(name, id_) != id_:
            renamed = partial(replaced, key="name", value=f"{name} ({id_})")
            message = f"'name' is {show(name)}, as that of category {first[name]}, so they are two classes of one name"
            yield Found(i, "duplicate-category-name", message, renamed)


def image_fields(images: Sequence[Entry]) -> Iterator[Found]:
    for key in ("id", "height", "width"):
        yield from _integers(images, key)
    for i, image in enumerate(images):
        name = image.get("file_name")
        if "file_name" not in image:
            yield Found(i, "missing-field", "no 'file_name'")
        elif not isinstance(name, str):
            yield Found(i, "wrong-type", f"'file_name' is {show(name)}, but must be a text")
        elif not name.strip():
            yield Found(i, "file-name-empty", "'file_name' is empty")


def image_sizes(images: Sequence[Entry]) -> Iterator[Found]:
    for i, image in enumerate(images):
        for side in ("height", "width"):
            if image[side] < 1:
                yield Found(i, "image-size", f"'{side}' is {image[side]}, but must be at least 1")
            elif image[side] > MAX_SIDE:
                yield Found(i, "image-size", f"'{side}' is {image[side]}, but must be at most {MAX_SIDE}")


def repeated_images(images: Sequence[Entry]) -> Iterator[Found]:
    return _repeated_ids(images, "image", ("file_name", "height", "width"))


def copies_of_images(images: Sequence[Entry]) -> dict[int, int]:
    """Ids of entries for an image that an earlier entry has, with that one's id."""
    first: dict[tuple[str, int, int], int] = {}
    copies = {}
    for image in images:
        original = first.setdefault((image["file_name"], image["height"], image["width"]), image["id"])
        if original != image["id"]:
            copies[image["id"]] = original
    return copies


def listed_twice(images: Sequence[Entry], copies: Mapping[int, int]) -> Iterator[Found]:
    for i, image in enumerate(images):
        if image["id"] in copies:
            original = copies[image["id"]]
            message = f"'file_name' is {show(image['file_name'])}, which image {original} has too"
            yield Found(i, "duplicate-file-name", message)


def annotation_fields(annotations: Sequence[Entry]) -> Iterator[Found]:
    """The three ids, which must be integers."""
    fresh = _new_ids(annotations)
    for item in _integers(annotations, "id"):
        entry = annotations[item.at]
        yield item._replace(repair=partial(_with_id, fresh) if as_integer(entry.get("id")) is None else item.repair)
    for key in ("image_id", "category_id"):
        yield from _integers(annotations, key)


def unknown_references(
    annotations: Sequence[Entry], image_ids: Collection[int], category_ids: Collection[int]
) -> Iterator[Found]:
    """Annotations, with integers as ids, of images and categories that the file does not define."""
    defined = _some(sorted(category_ids))
    for i, annotation in enumerate(annotations):
        image, category = annotation["image_id"], annotation["category_id"]
        if image_ids and image not in image_ids:  # without any image at all, that is the one thing to say
            message = f"'image_id' is {image}, but 'images' has no image with this id"
            yield Found(i, "unknown-image", message)
        if category_ids and category not in category_ids:
            message = f"'category_id' is {category}: 'categories' defines only {defined}"
            yield Found(i, "unknown-category", message)


def repeated_annotations(annotations: Sequence[Entry]) -> Iterator[Found]:
    fresh = _new_ids(annotations)
    first: dict[int, int] = {}
    for i, annotation in enumerate(annotations):
        original = first.setdefault(annotation["id"], i)
        if original != i:
            copy = annotation == annotations[original]
            message = f"two annotations have the id {annotation['id']}" + (" and are otherwise equal too" * copy)
            yield Found(i, "duplicate-annotation-id", message, dropped if copy else partial(_with_id, fresh))


def as_integer(value: Any) -> int | None:
    """The integer that a value is, or means: "7" and 7.0; else None."""
    whole = type(value) is float and value.is_integer()
    if whole or (isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}\s*", value)):
        value = int(value)
    return value if is_integer(value) else None


def is_integer(value: Any) -> bool:
    return type(value) is int and -MAX_ID <= value <= MAX_ID  # not isinstance: true and false are no numbers here


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _integers(entries: Sequence[Entry], key: str) -> Iterator[Found]:
    for i, entry in enumerate(entries):
        value = entry.get(key)
        if is_integer(value):
            continue
        if key not in entry:
            yield Found(i, "missing-field", f"no '{key}'")
        else:
            mended = partial(replaced, key=key, value=as_integer(value))
            limit = " of at most 63 bits" if type(value) is int else ""
            yield Found(i, "wrong-type", f"'{key}' is {show(value)}, but must be an integer{limit}", mended)


def _repeated_ids(entries: Sequence[Entry], what: str, keys: Sequence[str]) -> Iterator[Found]:
    """The later ones of equal entries with one id; all entries with one id if they differ."""
    groups: dict[int, list[int]] = defaultdict(list)
    for i, entry in enumerate(entries):
        groups[entry["id"]].append(i)
    plural = {"category": "categories", "image": "images"}[what]
    for id_, group in groups.items():
        if len(group) == 1:
            continue
        variants = list(dict.fromkeys(tuple(entries[i][key] for key in keys) for i in group))
        shown = [show(values[0]) for values in (variants * 2)[:2]]
        text = f"two {plural} have the id {id_}: {shown[0]} and {shown[1]}"
        for i in group[1:] if len(variants) == 1 else group:
            yield Found(i, f"duplicate-{what}-id", text)


def _new_ids(annotations: Sequence[Entry]) -> Iterator[int]:
    used = {a["id"] for a in annotations if is_integer(a.get("id"))}
    yield from (id_ for id_ in itertools.count(1) if id_ not in used)


def _with_id(fresh: Iterator[int], annotation: Entry) -> Entry:
    return {**annotation, "id": next(fresh)}


def _some(values: list[int]) -> str:
    return f"{values}" if len(values) <= 12 else f"{len(values)} ids from {values[0]} to {values[-1]}"


def without_annotations(images: Sequence[Entry], annotations: Sequence[Any]) -> Iterator[Found]:
    """Images that no annotation is of, not even one with an error."""
    used = _referred_to(annotations, "image_id")
    for i, image in enumerate(images):
        if image["id"] not in used:
            yield Found(i, "image-without-annotations", f"{image['file_name']!r} has no annotations")


def without_instances(categories: Sequence[Entry], annotations: Sequence[Any]) -> Iterator[Found]:
    """Categories that no annotation is of, not even one with an error."""
    used = _referred_to(annotations, "category_id")
    for i, category in enumerate(categories):
        if category["id"] not in used:
            yield Found(i, "category-without-instances", f"{category['name']!r} has no annotations")


def _referred_to(annotations: Sequence[Any], key: str) -> set[int | None]:
    return {as_integer(annotation.get(key)) for annotation in annotations if isinstance(annotation, dict)}
