"""Known data sets: the files and folders that make one up below the data root, and where they come from.

The layout is the one that Detectron2 expects. Another data set is one more entry of `LAYOUTS`: its reader takes the
paths from there, and `prepare_data` links what a user has unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.data.folders import walk
from maskrcnn.data.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Part:
    """One file, or one folder of images.

    Args:
        path: below the data root.
        inside: the end of its path in its archive, by which it is found: as many names as tell it from others.
        address: of the archive; its name alone where it is behind a login.
        images: how many image files the folder and its subfolders hold; 0 for a file.
    """

    path: str
    inside: str
    address: str
    images: int = 0

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return self.address.rpartition("/")[2]

    def lack(self, path: Path) -> str:
        """What keeps `path` from being this part: "is missing", "has 12 of 5000 images"; "" if nothing does."""
        if not path.exists():
            return "is missing"
        if self.images:
            count = count_images(path)
            return f"has {count} of {self.images} images" if count < self.images else ""
        if not path.is_file():
            return "is no file"
        return "" if path.stat().st_size else "is empty"


@dataclass(frozen=True)
class Layout:
    """Data sets that are got together: a title, the official page, and the parts of each registered data set."""

    title: str
    page: str
    data_sets: Mapping[str, tuple[Part, ...]]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Each once."""
        return tuple(dict.fromkeys(part for parts in self.data_sets.values() for part in parts))


def count_images(folder: Path) -> int:
    """The image files in a folder and its subfolders, by their suffixes."""
    return sum(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for _, names in walk(folder) for name in names)


COCO_ADDRESS = "http://images.cocodataset.org"


# The halves of val2014 that Detectron published: trainval35k is train2014 and valminusminival, and is train2017 too.
MINIVAL_ADDRESS = "https://dl.fbaipublicfiles.com/detectron/coco/coco_annotations_minival.tgz"
COCO_IMAGES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}


def _coco(title: str, splits: Mapping[str, str], address: str, *, kind: str, prefix: str) -> Layout:
    """Data sets of COCO.

    Args:
        splits: the folder of images by the name of a split, which ends in the year.
        address: of the archive of annotations.
    """
    return Layout(
        title=f"{title} {kind.replace('_', ' ')}",
        page="https://cocodataset.org/#download",
        data_sets={
            f"{prefix}coco_{split[-4:]}_{split[:-4]}": (
                Part(f"coco/annotations/{kind}_{split}.json", f"{kind}_{split}.json", address),
                Part(f"coco/{folder}", folder, f"{COCO_ADDRESS}/zips/{folder}.zip", images=COCO_IMAGES[folder]),
            )
            for split, folder in splits.items()
        },
    )


def _coco_layouts(*, kind: str, prefix: str) -> dict[str, Layout]:
    layouts = {}
    for year in (2014, 2017):
        splits = {name: name for name in (f"train{year}", f"val{year}")}
        address = f"{COCO_ADDRESS}/annotations/annotations_trainval{year}.zip"
        layouts[f"{prefix}coco{year}"] = _coco(f"COCO {year}", splits, address, kind=kind, prefix=prefix)
    halves = {"minival2014": "val2014", "valminusminival2014": "val2014"}
    layouts[f"{prefix}coco2014_minival"] = _coco("COCO 2014 minival", halves, MINIVAL_ADDRESS, kind=kind, prefix=prefix)
    return layouts


_TEST_DEV = (  # 20 288 of the images
    Part(
        "coco/annotations/image_info_test-dev2017.json",
        "image_info_test-dev2017.json",
        f"{COCO_ADDRESS}/annotations/image_info_test2017.zip",
    ),
    Part("coco/test2017", "test2017", f"{COCO_ADDRESS}/zips/test2017.zip", images=40_670),
)
COCO_TEST = Layout(
    title="COCO 2017 test-dev, without annotations",
    page="https://cocodataset.org/#download",
    data_sets={"coco_2017_test-dev": _TEST_DEV, "keypoints_coco_2017_test-dev": _TEST_DEV},
)
COCO_LAYOUTS = {
    **_coco_layouts(kind="instances", prefix=""),
    **_coco_layouts(kind="person_keypoints", prefix="keypoints_"),
    "coco2017_test": COCO_TEST,
}


def _cityscapes(split: str, count: int, *, annotated: bool) -> tuple[Part, ...]:
    """Images, then annotations: three pictures for each image, of which one is read."""
    kinds = ("leftImg8bit", "gtFine") if annotated else ("leftImg8bit",)
    return tuple(Part(f"cityscapes/{k}/{split}", f"{k}/{split}", f"{k}_trainvaltest.zip", images=count) for k in kinds)


CITYSCAPES = Layout(
    title="Cityscapes, fine annotations",
    page="https://www.cityscapes-dataset.com/downloads (after logging in)",
    data_sets={
        "cityscapes_fine_instance_seg_train": _cityscapes("train", 2_975, annotated=True),
        "cityscapes_fine_instance_seg_val": _cityscapes("val", 500, annotated=True),
        "cityscapes_fine_instance_seg_test": _cityscapes("test", 1_525, annotated=False),
    },
)

# By the name that `prepare_data` takes.
LAYOUTS = {**COCO_LAYOUTS, "cityscapes": CITYSCAPES}
