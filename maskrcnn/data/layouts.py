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


def _coco(year: int, num_images: Mapping[str, int], *, kind: str, prefix: str) -> Layout:
    annotations = f"{COCO_ADDRESS}/annotations/annotations_trainval{year}.zip"
    return Layout(
        title=f"COCO {year} {kind.replace('_', ' ')}",
        page="https://cocodataset.org/#download",
        data_sets={
            f"{prefix}coco_{year}_{split}": (
                Part(f"coco/annotations/{kind}_{split}{year}.json", f"{kind}_{split}{year}.json", annotations),
                Part(
                    f"coco/{split}{year}",
                    f"{split}{year}",
                    f"{COCO_ADDRESS}/zips/{split}{year}.zip",
                    images=count,
                ),
            )
            for split, count in num_images.items()
        },
    )


COCO_2014 = {"train": 82_783, "val": 40_504}
COCO_2017 = {"train": 118_287, "val": 5_000}
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
    "coco2014": _coco(2014, COCO_2014, kind="instances", prefix=""),
    "coco2017": _coco(2017, COCO_2017, kind="instances", prefix=""),
    "keypoints_coco2014": _coco(2014, COCO_2014, kind="person_keypoints", prefix="keypoints_"),
    "keypoints_coco2017": _coco(2017, COCO_2017, kind="person_keypoints", prefix="keypoints_"),
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
