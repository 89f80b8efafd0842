"""A data set in memory: packed columns that processes share, read as one record per image."""

from __future__ import annotations

import copy
import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.data.proposals import StoredProposals
from maskrcnn.data.shared import SharedArrays
from maskrcnn.structures.rle import RLE

NUM_KEYPOINTS = 17


class DatasetError(ValueError):
    """Something in a user's data is wrong: says in which file, where in it, what stands there, and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectRecord:
    """One annotated object.

    Args:
        id: what the file calls it.
        box: float32 (4,), absolute XYXY inside the image.
        label: 0..K-1.
        crowd: it stands for many objects; never trained on, and at evaluation nothing found in it is wrong.
        area: of the object in pixels, as the file gives it.
        segmentation: polygons, one float32 (2n,) array x1 y1 x2 y2 ... for each part; or COCO RLE; or None. Rounded to
            three decimals in float64 they are the file's numbers again, if those have no more.
        keypoints: float32 (17, 3): x, y, visibility (0 unlabelled, 1 hidden, 2 visible), or None. x and y are
            continuous like boxes, so the centre of the first pixel is 0.5.
    """

    id: int
    box: np.ndarray
    label: int
    crowd: bool
    area: float
    segmentation: list[np.ndarray] | RLE | None = None
    keypoints: np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ImageRecord:
    """One image of a data set: where it lies, its (h, w), and its objects.

    `proposals` are boxes (P, 4) and scores (P,) from a file, or None.
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    objects: list[ObjectRecord]
    proposals: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Change:
    """What a reader did to an entry of an annotation file.

    Args:
        where: the entry, such as "annotation 5".
        action: "dropped", or "changed".
        cause: why.
        kinds: of the problems that led to it, see `maskrcnn.data.checking`.
        before, after: the fields that were changed, shortened; of a dropped entry none.
    """

    where: str
    action: Literal["dropped", "changed"]
    cause: str
    kinds: tuple[str, ...]
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Everything about N images with M objects. `x_offsets` has one entry more than there are owners of x's: those of
    owner i are x_offsets[i]:x_offsets[i + 1]."""

    image_ids: np.ndarray  # int64 (N,)
    sizes: np.ndarray  # int32 (N, 2)
    paths: np.ndarray  # uint8, the file names' bytes one after the other
    path_offsets: np.ndarray  # int64 (N + 1,), into paths
    object_offsets: np.ndarray  # int64 (N + 1,), into the objects
    object_ids: np.ndarray  # int64 (M,)
    boxes: np.ndarray  # float32 (M, 4)
    labels: np.ndarray  # int32 (M,)
    crowd: np.ndarray  # bool (M,)
    areas: np.ndarray  # float64 (M,)
    polygon_offsets: np.ndarray  # int64 (M + 1,), into the polygons; none where the object has RLE or no mask
    point_offsets: np.ndarray  # int64 (polygons + 1,), into points
    points: np.ndarray  # float32, x and y in turn
    rle_offsets: np.ndarray  # int64 (M + 1,), into rles; none where the object has polygons or no mask
    rles: np.ndarray  # uint8, COCO's compressed counts one after the other
    keypoints: np.ndarray  # float32 (M, 17, 3), or (0, 17, 3) when no object has any


class Dataset:
    """Records of images, held in one block of shared memory, so that worker processes neither copy nor parse them.

    `dataset[i]` makes the `ImageRecord` of image i afresh. `class_names` and `category_ids` (the file's own ids, with
    their gaps) are by label. `json_path` and `image_root` are where it was read from, or None. `changes` says in what
    it is not as the file has it. `annotated` is False for images alone, whose ground truth only a server has.
    `proposals` are those of the images, of a data set `with_proposals`.
    """

    def __init__(
        self,
        columns: Columns,
        *,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        name: str,
        json_path: Path | None = None,
        image_root: Path | None = None,
        changes: Sequence[Change] = (),
        annotated: bool = True,
    ) -> None:
        arrays = [getattr(columns, field.name) for field in fields(Columns)]
        self._arrays: Iterable[np.ndarray]
        try:
            self._arrays = SharedArrays(arrays)
        except RuntimeError:  # a container's /dev/shm may be small; forked workers share private memory as well
            self._arrays = arrays
        self._columns = self._views()
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.name = name
        self.json_path = json_path
        self.image_root = image_root
        self.changes = tuple(changes)
        self.annotated = annotated
        self.proposals: StoredProposals | None = None

    @classmethod
    def from_records(
        cls,
        records: Iterable[ImageRecord],
        *,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        name: str,
        json_path: Path | None = None,
        image_root: Path | None = None,
        changes: Sequence[Change] = (),
        annotated: bool = True,
    ) -> Dataset:
        """Pack records, which may come from a generator: only one at a time is held."""
        return cls(
            pack(records),
            class_names=class_names,
            category_ids=category_ids,
            name=name,
            json_path=json_path,
            image_root=image_root,
            changes=changes,
            annotated=annotated,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value for key, value in self.__dict__.items() if key != "_columns"
        }  # views: made anew from the block

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._columns = self._views()

    def _views(self) -> Columns:
        """Not writable: a transform that worked in place would change the data set, in every process."""
        columns = Columns(*self._arrays)
        for field in fields(Columns):
            getattr(columns, field.name).flags.writeable = False
        return columns

    def __len__(self) -> int:
        return len(self._columns.image_ids)

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> ImageRecord:
        c = self._columns
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of data set {self.name!r}, which has {len(self)}")
        i %= len(self)
        path = c.paths[c.path_offsets[i] : c.path_offsets[i + 1]].tobytes()
        height, width = c.sizes[i].tolist()
        return ImageRecord(
            image_id=int(c.image_ids[i]),
            path=Path(os.fsdecode(path)),
            size=(height, width),
            objects=[self._object(k, (height, width)) for k in range(c.object_offsets[i], c.object_offsets[i + 1])],
            proposals=None if self.proposals is None else self.proposals[i],
        )

    def _object(self, k: int, size: tuple[int, int]) -> ObjectRecord:
        c = self._columns
        return ObjectRecord(
            id=int(c.object_ids[k]),
            box=c.boxes[k],
            label=int(c.labels[k]),
            crowd=bool(c.crowd[k]),
            area=float(c.areas[k]),
            segmentation=self._segmentation(k, size),
            keypoints=c.keypoints[k] if len(c.keypoints) else None,
        )

    def _segmentation(self, k: int, size: tuple[int, int]) -> list[np.ndarray] | RLE | None:
        c = self._columns
        polygons = range(c.polygon_offsets[k], c.polygon_offsets[k + 1])
        if polygons:
            return [c.points[c.point_offsets[p] : c.point_offsets[p + 1]] for p in polygons]
        counts = c.rles[c.rle_offsets[k] : c.rle_offsets[k + 1]].tobytes()
        return {"size": list(size), "counts": counts.decode("ascii")} if counts else None

    def with_proposals(self, proposals: StoredProposals) -> Dataset:
        """The same data set, whose records have these; it shares all memory with this one."""
        assert len(proposals) == len(self), f"proposals of {len(proposals)} images, but there are {len(self)}"
        other = copy.copy(self)
        other.proposals = proposals
        return other

    @property
    def image_ids(self) -> np.ndarray:
        """int64 (N,)."""
        return self._columns.image_ids

    @property
    def paths(self) -> list[Path]:
        """Of the image files."""
        c = self._columns
        text = c.paths.tobytes()
        return [Path(os.fsdecode(text[a:b])) for a, b in itertools.pairwise(c.path_offsets.tolist())]

    @property
    def sizes(self) -> np.ndarray:
        """(h, w) of the images, int32 (N, 2)."""
        return self._columns.sizes

    @property
    def aspect_ratios(self) -> np.ndarray:
        """Width over height, float64 (N,)."""
        return self._columns.sizes[:, 1] / self._columns.sizes[:, 0]

    @property
    def num_objects(self) -> np.ndarray:
        """Objects of each image, crowd regions not counted: int64 (N,)."""
        counted = np.concatenate([[0], np.cumsum(~self._columns.crowd)])
        return np.diff(counted[self._columns.object_offsets])

    @property
    def num_keypoints(self) -> np.ndarray:
        """Labelled keypoints of each image, those of crowd regions not counted: int64 (N,)."""
        c = self._columns
        if not self.has_keypoints:
            return np.zeros(len(self), np.int64)
        counted = np.concatenate([[0], np.cumsum((c.keypoints[:, :, 2] > 0).sum(axis=1) * ~c.crowd)])
        return np.diff(counted[c.object_offsets])

    @property
    def has_masks(self) -> bool:
        """Whether any object has a segmentation."""
        return len(self._columns.points) > 0 or len(self._columns.rles) > 0

    @property
    def has_keypoints(self) -> bool:
        """Whether any object has keypoints."""
        return len(self._columns.keypoints) > 0

    @property
    def source(self) -> str:
        """The file it was read from, else its name: for messages."""
        return str(self.json_path or self.name)

    def check_masks(self) -> None:
        """For who trains masks: every object that is trained on needs one.

        Raises:
            DatasetError: an object other than a crowd region has no segmentation.
        """
        c = self._columns
        missing = ~c.crowd & (np.diff(c.polygon_offsets) == 0) & (np.diff(c.rle_offsets) == 0)
        if missing.any():
            raise DatasetError(
                f"{self.source}: {missing.sum()} of {(~c.crowd).sum()} objects have no 'segmentation', the first being "
                f"annotation {c.object_ids[missing.argmax()]}; add masks, or choose a model without a mask head"
            )


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """The images of several data sets, one after the other, as one data set.

    Raises:
        DatasetError: two of them do not have the same categories.
    """
    if not datasets:
        raise DatasetError("no data set to read from")
    first, *others = datasets
    for other in others:
        theirs, ours = (list(zip(d.category_ids, d.class_names, strict=True)) for d in (other, first))
        if theirs != ours:
            a, b = next(pair for pair in itertools.zip_longest(ours, theirs) if pair[0] != pair[1])
            raise DatasetError(
                f"{first.source} and {other.source} cannot be used together, their categories differ: the first "
                f"difference is {_category(a)} against {_category(b)}; give both files the same 'categories'"
            )
    if not others:
        return first
    whole = Dataset.from_records(
        itertools.chain.from_iterable(datasets),
        class_names=first.class_names,
        category_ids=first.category_ids,
        name=" + ".join(d.name for d in datasets),
        changes=[change for d in datasets for change in d.changes],
        annotated=all(d.annotated for d in datasets),
    )
    proposals = [d.proposals for d in datasets if d.proposals is not None]
    assert len(proposals) in (0, len(datasets)), "some of the data sets have proposals, others have none"
    return whole.with_proposals(StoredProposals.concatenate(proposals)) if proposals else whole


def _category(category: tuple[int, str] | None) -> str:
    return "none" if category is None else f"id {category[0]} ({category[1]!r})"


def pack(records: Iterable[ImageRecord]) -> Columns:
    """Records -> columns, through growing typed arrays: no Python object stays for an annotation."""
    image_ids, sizes, object_ids, labels = array("q"), array("i"), array("q"), array("i")
    boxes, points, keypoints, areas = array("f"), array("f"), array("f"), array("d")
    paths, rles, crowd = bytearray(), bytearray(), bytearray()
    path_offsets, object_offsets, polygon_offsets = array("q", [0]), array("q", [0]), array("q", [0])
    point_offsets, rle_offsets = array("q", [0]), array("q", [0])
    with_keypoints = array("q")  # objects
    for record in records:
        image_ids.append(record.image_id)
        sizes.extend(record.size)
        paths += os.fsencode(record.path)
        path_offsets.append(len(paths))
        for obj in record.objects:
            object_ids.append(obj.id)
            boxes.frombytes(_bytes(obj.box))
            labels.append(obj.label)
            crowd.append(obj.crowd)
            areas.append(obj.area)
            if isinstance(obj.segmentation, dict):
                rles += compressed_counts(obj.segmentation)
            for polygon in obj.segmentation if isinstance(obj.segmentation, list) else ():
                points.frombytes(_bytes(polygon))
                point_offsets.append(len(points))
            polygon_offsets.append(len(point_offsets) - 1)
            rle_offsets.append(len(rles))
            if obj.keypoints is not None:
                keypoints.frombytes(_bytes(obj.keypoints))
                with_keypoints.append(len(object_ids) - 1)
        object_offsets.append(len(object_ids))
    return Columns(
        image_ids=np.array(image_ids, np.int64),
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        paths=np.frombuffer(paths, np.uint8),
        path_offsets=np.array(path_offsets, np.int64),
        object_offsets=np.array(object_offsets, np.int64),
        object_ids=np.array(object_ids, np.int64),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int32),
        crowd=np.frombuffer(crowd, np.bool_),
        areas=np.array(areas, np.float64),
        polygon_offsets=np.array(polygon_offsets, np.int64),
        point_offsets=np.array(point_offsets, np.int64),
        points=np.array(points, np.float32),
        rle_offsets=np.array(rle_offsets, np.int64),
        rles=np.frombuffer(rles, np.uint8),
        keypoints=_scatter(keypoints, with_keypoints, len(object_ids)),
    )


def _scatter(keypoints: array[float], owners: array[int], num_objects: int) -> np.ndarray:
    """Those of some objects -> one row per object, zero (unlabelled) for the others; no rows if no object has any."""
    rows = np.zeros((num_objects if owners else 0, NUM_KEYPOINTS, 3), np.float32)
    rows[np.array(owners, np.int64)] = np.array(keypoints, np.float32).reshape(-1, NUM_KEYPOINTS, 3)
    return rows


def _bytes(values: np.ndarray) -> bytes:
    return np.asarray(values, np.float32).tobytes()


def compressed_counts(rle: RLE) -> bytes:
    """The counts of any form of COCO RLE in the compressed form."""
    counts = rle["counts"]
    if isinstance(counts, str):
        return counts.encode("ascii")
    if isinstance(counts, bytes):
        return counts
    compressed: bytes = coco_mask.frPyObjects({"size": rle["size"], "counts": counts}, *rle["size"])["counts"]
    return compressed
