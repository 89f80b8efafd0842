"""What can be wrong with a data set, by kind: how grave it is, what a person does about it, and what `repair` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["fatal", "error", "warning", "note"]
# error: training does not start; drop: entries with an error are left out; repair: what can be mended is, errors that
# cannot be are left out.
Policy: TypeAlias = Literal["error", "drop", "repair"]
POLICIES: tuple[Policy, ...] = ("error", "drop", "repair")

SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Args:
        severity: fatal: nothing can be read; error: training would go wrong, or stop; warning: trained on as it is;
            note: worth knowing.
        title: what such entries are, in the plural.
        repair: what the policy `repair` does; empty: nothing. The policy `drop` leaves errors out and warnings alone.
        remedy: what a person can do; empty where the message says it.
    """

    severity: Severity
    title: str
    repair: str = ""
    remedy: str = ""


KINDS: dict[str, Kind] = {
    # the file
    "no-file": Kind("fatal", "no such file"),
    "not-json": Kind("fatal", "not a JSON file"),
    "wrong-top-level": Kind("fatal", "not the outline of a COCO file"),
    "no-categories": Kind("fatal", "no categories", remedy="name every category that is annotated"),
    "no-images": Kind("fatal", "no images", remedy="list every image"),
    "no-image-folder": Kind("fatal", "no folder of images", remedy="name the right folder"),
    "no-image-files": Kind("fatal", "none of the image files there", remedy="name the right folder"),
    "boxes-normalised": Kind(
        "fatal",
        "boxes as fractions of the image",
        remedy="multiply x and width by the image's width, y and height by its height",
    ),
    "boxes-as-corners": Kind(
        "fatal", "boxes given by two corners", remedy="write [x1, y1, x2 - x1, y2 - y1] in place of [x1, y1, x2, y2]"
    ),
    # any entry
    "entry-not-object": Kind("error", "entries that are no objects {...}", "dropped", "remove the entry"),
    "missing-field": Kind(
        "error",
        "fields that are not there",
        "an id is invented, a box taken from the mask; else the entry is dropped",
        "add the field",
    ),
    "wrong-type": Kind(
        "error",
        "values of the wrong type",
        "texts and floats that mean an integer are converted, a box is taken from the mask, an area from the box, "
        "other parts of a mask are kept, keypoints are removed; else the entry is dropped",
        "correct the value",
    ),
    "not-finite": Kind(
        "error",
        "numbers that are not finite (NaN, Infinity) or beyond 1e9",
        "a box is taken from the mask, an area from the box, other parts of a mask are kept, keypoints are removed; "
        "else the annotation is dropped",
        "correct the number",
    ),
    # categories
    "duplicate-category-id": Kind(
        "error",
        "category ids used twice",
        "of equal names the first is kept; else both are dropped with their annotations",
        "ids must be unique",
    ),
    "duplicate-category-name": Kind(
        "warning", "category names used twice", "the id is added to the name", "rename one, or merge the two"
    ),
    "category-without-instances": Kind("note", "categories without annotations"),
    # images
    "image-size": Kind("error", "heights and widths below 1", "dropped with its annotations", "correct the size"),
    "file-name-empty": Kind("error", "empty file names", "dropped with its annotations", "add the file name"),
    "duplicate-image-id": Kind(
        "error",
        "image ids used twice",
        "of equal entries the first is kept; else both are dropped with their annotations",
        "ids must be unique",
    ),
    "duplicate-file-name": Kind(
        "warning",
        "images listed twice, with different ids",
        "the annotations go to the first",
        "list each image once, with all of its annotations: an object that is annotated in the other entry only counts "
        "as background",
    ),
    "image-without-annotations": Kind("note", "images without annotations"),
    # image files
    "image-missing": Kind(
        "error",
        "image files that are not there",
        "dropped with its annotations",
        "name the right folder, or add the file",
    ),
    "file-name-case": Kind(
        "error", "file names in other upper or lower case", "written as on the disk", "write it as on the disk"
    ),
    "image-unreadable": Kind("error", "files that are no images", "dropped with its annotations"),
    "image-truncated": Kind("error", "truncated or damaged image files", "dropped with its annotations"),
    "image-mis-sized": Kind("error", "images of another size than recorded", "dropped with its annotations"),
    # annotations
    "duplicate-annotation-id": Kind(
        "error",
        "annotation ids used twice",
        "a copy is dropped, another annotation gets a new id",
        "ids must be unique",
    ),
    "unknown-image": Kind(
        "error",
        "annotations of images that are not in 'images'",
        "dropped",
        "add the image or remove the annotation",
    ),
    "unknown-category": Kind(
        "error",
        "annotations of categories that are not in 'categories'",
        "dropped",
        "add the category or remove the annotation",
    ),
    "iscrowd-value": Kind(
        "error",
        "'iscrowd' other than 0 and 1",
        "null becomes 0, a text its number; else dropped",
        "write 1 for a region of many objects, else 0",
    ),
    "area-negative": Kind("error", "negative areas", "the box's area instead", "correct the area, or leave it out"),
    # boxes
    "bbox-length": Kind(
        "error",
        "boxes of more or fewer than four numbers",
        "taken from the mask; without one dropped",
        "write [x, y, width, height]",
    ),
    "bbox-negative-side": Kind(
        "error",
        "boxes of negative width or height",
        "its corners are put in order",
        "x and y are those of the upper left corner",
    ),
    "bbox-outside": Kind(
        "error",
        "boxes wholly outside their image",
        "taken from the mask; without one dropped",
        "correct the box, or the image's size",
    ),
    "bbox-partly-outside": Kind(
        "warning", "boxes that reach beyond their image", "cut off at the image's edge", "correct the box"
    ),
    "bbox-without-area": Kind(
        "warning",
        "boxes of no width or height, which are not trained on",
        "taken from the mask; without one dropped",
        "correct or remove the annotation",
    ),
    "box-mask-apart": Kind(
        "error",
        "boxes that hardly overlap their mask, or give it by two corners",
        "taken from the mask",
        "correct the box or the mask",
    ),
    "box-mask-differ": Kind(
        "warning", "boxes that differ much from their mask (IoU below 0.5)", "taken from the mask", "compare the two"
    ),
    # masks
    "mask-missing": Kind(
        "error",
        "objects without a mask, where others have one",
        "dropped",
        "add the mask, mark the region as a crowd, or remove 'segmentation' everywhere to train on boxes alone",
    ),
    "segmentation-flat": Kind(
        "error",
        "polygons that are not in a list",
        "put into a list",
        "write [[x1, y1, x2, y2, ...]], a list of polygons",
    ),
    "polygon-four-numbers": Kind(
        "error",
        "polygons of four numbers, which pycocotools takes for boxes",
        "that part is removed; without others the annotation is dropped",
        "draw at least three points, or leave 'segmentation' out everywhere if there are only boxes",
    ),
    "polygon-too-few-points": Kind(
        "error",
        "polygons of fewer than three points",
        "that part is removed; without others the annotation is dropped",
        "remove this polygon",
    ),
    "polygon-odd-count": Kind(
        "error",
        "polygons of an odd count of numbers",
        "that part is removed; without others the annotation is dropped",
        "each point has an x and a y",
    ),
    "mask-without-area": Kind(
        "warning",
        "masks of no area",
        "empty parts are removed; without others the annotation is dropped",
        "correct or remove the annotation",
    ),
    "rle-size": Kind("error", "RLE of another size than the image", "dropped", "encode the mask in its image's size"),
    "rle-counts": Kind(
        "error", "RLE that does not decode to its image's size", "dropped", "encode the mask again, as pycocotools does"
    ),
    # keypoints
    "keypoint-count": Kind(
        "error",
        "keypoints of another count than 17",
        "the keypoints are removed",
        "remove 'keypoints' from the file if they are of another kind and only boxes and masks are needed",
    ),
    "keypoint-visibility": Kind(
        "error",
        "keypoints of a visibility other than 0, 1, 2",
        "the keypoints are removed",
        "0 is unlabelled, 1 hidden, 2 visible",
    ),
    "num-keypoints": Kind(
        "warning",
        "'num_keypoints' that disagrees with 'keypoints'",
        "counted anew",
        "it counts those of visibility 1 or 2",
    ),
    # two files
    "categories-differ": Kind(
        "error", "categories that differ from the training file's", remedy="give both files the same 'categories'"
    ),
    "shared-image": Kind(
        "warning",
        "images that are in the training file too",
        remedy="leave them out of one of the two: the evaluation would measure what was learnt by heart",
    ),
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        kind: a key of `KINDS`.
        file: the annotation file.
        where: the entry in it, such as "annotation 5"; empty: the file as a whole.
        message: the field, the value that stands there, and what should.
    """

    kind: str
    file: str
    where: str
    message: str

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    @property
    def line(self) -> str:
        """All of it on one line: file, entry, field, value, remedy."""
        place = f"{self.file}: {self.where}: " if self.where else f"{self.file}: "
        remedy = KINDS[self.kind].remedy
        return f"{place}{self.message}" + (f"; {remedy}" if remedy else "")


def show(value: Any) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    if len(text) <= SHOWN:
        return text
    size = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"{text[: SHOWN - 20]}... ({type(value).__name__}{size})"


def name_of(what: str, entry: Any) -> str:
    """What messages call an entry: `annotation 5`."""
    return f"{what} {show(entry['id'] if isinstance(entry, dict) and 'id' in entry else entry)}"
