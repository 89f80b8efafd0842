import contextlib
import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskrcnn.data.datasets import shapes
from maskrcnn.data.datasets.shapes_drawing import MIN_VISIBLE, STUFF, draw_scene
from maskrcnn.data.datasets.shapes_figures import CATEGORIES, KEYPOINTS, SKELETON
from maskrcnn.data.records import DatasetError
from maskrcnn.registry import DATASETS

REPOSITORY = Path(__file__).parents[3]
IMAGES = 60


def load_difficulty():
    """The benchmark script as a module; its folder is no package."""
    path = REPOSITORY / "benchmarks" / "shapes_difficulty.py"
    spec = importlib.util.spec_from_file_location("shapes_difficulty", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(folder, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(folder / "annotations" / f"instances_{split}.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shapes.generate(tmp_path_factory.mktemp("root"), train=IMAGES, val=3, seed=0, workers=1)


@pytest.fixture(scope="module")
def coco(folder):
    return read(folder, "train")


def scene_of(index, split=0, seed=0):
    return draw_scene(np.random.default_rng([seed, split, index]))


# Difficulty: the two figures that the data set was built to


def test_a_28x28_mask_loses_at_least_10_ap_and_a_quarter_of_the_objects_overlap_their_kind(folder):
    difficulty = load_difficulty()
    data = difficulty.read(folder / "annotations" / "instances_train.json")
    assert difficulty.mask_ap(data, None)["AP"] == pytest.approx(100)
    assert difficulty.mask_ap(data, difficulty.SIDE)["AP"] <= 90
    assert difficulty.overlapping_share(data) >= 0.25


def test_a_mask_squeezed_through_its_own_resolution_comes_back_whole():
    difficulty = load_difficulty()
    mask = np.zeros((40, 50), np.uint8)
    mask[3:31, 10:38] = np.random.default_rng(0).integers(0, 2, (28, 28))
    annotation = {"rle": coco_mask.encode(np.asfortranarray(mask)), "bbox": [10, 3, 28, 28]}
    back = coco_mask.decode(difficulty.through_mask_head(annotation, mask.shape, 28))
    assert (back == mask).all()


# Contents


def test_there_is_of_everything(coco):
    annotations = [a for a in coco.anns.values() if not a["iscrowd"]]
    assert len(coco.cats) >= 8
    assert np.diff(sorted(coco.cats)).max() > 1, "the ids have gaps"
    counts = Counter(a["category_id"] for a in annotations)
    assert min(counts[c] for c in coco.cats) >= 10
    areas = np.array([a["area"] for a in annotations])
    for share in (areas < 32**2, (areas >= 32**2) & (areas < 96**2), areas >= 96**2):
        assert share.mean() > 0.03
    polygons = [a["segmentation"] for a in annotations if isinstance(a["segmentation"], list)]
    assert 0.25 < len(polygons) / len(annotations) < 0.75
    assert sum(len(p) > 1 for p in polygons) > 10, "objects in several parts"
    assert len(coco.getAnnIds(iscrowd=1)) >= 2
    assert 4 <= len(annotations) / IMAGES <= 10
    sizes = {(image["height"], image["width"]) for image in coco.imgs.values()}
    assert all(192 <= side <= 320 for size in sizes for side in size)
    assert any(h > w for h, w in sizes) and any(h < w for h, w in sizes)


def test_some_images_have_no_objects():
    empty = [not scene_of(index).objects for index in range(IMAGES, 130)]
    assert 1 <= sum(empty) <= 6


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda c: c.name)
def test_figures_of_every_size_are_finite_and_about_that_large(category):
    for size, seed in itertools.product((9, 24, 90, 260), range(20)):
        figure = category.draw(np.random.default_rng(seed), size)
        outline = np.concatenate(figure.parts)
        assert np.isfinite(outline).all() and all(np.isfinite(hole).all() for hole in figure.holes)
        assert 0.45 * size < np.ptp(outline, axis=0).max() < 1.3 * size + 3
        u, v = outline.T
        colours = figure.paint(u, v)
        assert colours.shape == (len(u), 3) and np.isfinite(colours).all()


# Annotations


def test_annotations_are_the_drawn_pixels(coco):
    for index, image_id in enumerate(sorted(coco.imgs)):
        scene, annotations = scene_of(index), coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(annotations) == len(scene.objects)
        for i, (placed, a) in enumerate(zip(scene.objects, annotations, strict=True)):
            mask = coco.annToMask(a).astype(bool)
            drawn = scene.owner == i
            if a["iscrowd"]:
                assert (mask[drawn]).all() and not mask[(scene.owner >= 0) & ~drawn].any()
            else:
                assert (mask == drawn).all()
            y, x = np.nonzero(mask)
            assert a["bbox"] == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            assert a["area"] == mask.sum() and a["category_id"] == placed.category.id


def test_nothing_is_all_but_hidden():
    for index in range(IMAGES):
        scene = scene_of(index)
        for i, placed in enumerate(scene.objects):
            assert (scene.owner == i).sum() >= max(20, MIN_VISIBLE * placed.drawn)


def test_crowds_are_uncompressed_rle_and_the_other_rle_is_text(coco):
    for a in coco.anns.values():
        if not isinstance(a["segmentation"], list):
            assert isinstance(a["segmentation"]["counts"], list if a["iscrowd"] else str)


def test_polygons_stay_inside_their_image(coco):
    for a in coco.anns.values():
        if isinstance(a["segmentation"], list):
            image = coco.imgs[a["image_id"]]
            for ring in a["segmentation"]:
                points = np.reshape(ring, (-1, 2))
                assert len(points) >= 3 and (points >= 0).all() and (points <= [image["width"], image["height"]]).all()


def test_keypoints_follow_coco(coco):
    people = [a for a in coco.anns.values() if "keypoints" in a]
    assert {a["category_id"] for a in people} == {1} and coco.cats[1]["keypoints"] == KEYPOINTS
    assert all("keypoints" in a for a in coco.anns.values() if a["category_id"] == 1)
    assert len(KEYPOINTS) == 17 and {i for bone in SKELETON for i in bone} == set(range(1, 18))
    seen = Counter()
    for a in people:
        image, mask = coco.imgs[a["image_id"]], coco.annToMask(a)
        points = np.reshape(a["keypoints"], (17, 3))
        assert a["num_keypoints"] == (points[:, 2] > 0).sum()
        if a["iscrowd"] or a["area"] < 32**2:
            assert a["num_keypoints"] == 0
        for x, y, v in points:
            assert (x, y) == (0, 0) if v == 0 else (0 <= x < image["width"] and 0 <= y < image["height"])
            assert v == 0 or mask[y, x] == (v == 2), "visible points lie on the figure, hidden ones do not"
            seen[int(v)] += 1
    assert min(seen[v] for v in (0, 1, 2)) > 5


def test_people_face_us(coco):
    left, right = KEYPOINTS.index("left_shoulder"), KEYPOINTS.index("right_shoulder")
    whole = [np.reshape(a["keypoints"], (17, 3)) for a in coco.anns.values() if a.get("num_keypoints") == 17]
    assert whole and all(points[left, 0] > points[right, 0] for points in whole)


def test_semantic_maps_agree_with_the_masks(folder, coco):
    table = {c["id"]: c for c in coco.dataset["semantic_categories"]}
    assert sorted(table) == list(range(len(STUFF) + len(CATEGORIES)))
    for image_id, image in coco.imgs.items():
        semantic = cv2.imread(str(folder / "semantic_train" / f"{image_id:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert semantic.shape == (image["height"], image["width"]) and semantic.dtype == np.uint8
        thing = np.zeros(semantic.shape, bool)
        for a in coco.loadAnns(coco.getAnnIds(imgIds=[image_id])):
            mask = coco.annToMask(a).astype(bool)
            names = {table[i]["name"] for i in np.unique(semantic[mask])}
            own = coco.cats[a["category_id"]]["name"]
            assert own in names if a["iscrowd"] else names == {own}
            thing |= mask
        assert all(table[i]["isthing"] == 0 for i in np.unique(semantic[~thing]))


def test_pictures_have_the_recorded_size(folder, coco):
    for image in coco.imgs.values():
        assert cv2.imread(str(folder / "train" / image["file_name"])).shape == (image["height"], image["width"], 3)


# Masks to annotations


def even_odd(rings, size):
    """Pixel by pixel: a centre is inside when a ray to the right crosses the rings an odd number of times."""
    inside = np.zeros(size, bool)
    for y, x in itertools.product(*map(range, size)):
        for ring in rings:
            points = np.reshape(ring, (-1, 2))
            for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
                if (y1 > y + 0.5) != (y2 > y + 0.5) and x + 0.5 < x1 + (y + 0.5 - y1) * (x2 - x1) / (y2 - y1):
                    inside[y, x] ^= True
    return inside


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9, 1.0])
def test_traced_outlines_enclose_the_mask(density):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 6), (9, 12)):
        mask = rng.random(size) < density
        mask[0, 0] = True
        rings = shapes.trace(mask)
        assert (even_odd(rings, size) == mask).all()
        assert all(len(ring) >= 8 for ring in rings)


def test_pixels_that_touch_at_a_corner_are_separate_parts():
    assert sorted(shapes.trace(np.eye(2, dtype=bool))) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]


@pytest.mark.parametrize("first", [False, True])
def test_rle_in_both_forms_decodes_to_the_mask(first):
    mask = np.random.default_rng(1).random((7, 9)) < 0.4
    mask[0, 0] = first
    uncompressed = coco_mask.frPyObjects(shapes.counts_of(mask), *mask.shape)
    assert (coco_mask.decode(uncompressed) == mask).all()
    assert (coco_mask.decode(shapes.encode(mask)) == mask).all()


def test_a_mask_with_a_hole_becomes_rle():
    mask = np.ones((5, 5), bool)
    assert isinstance(shapes.segmentation_of(mask, None), list)
    mask[2, 2] = False
    assert isinstance(shapes.segmentation_of(mask, None), dict)


# Writing


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_number_of_processes_changes_nothing(tmp_path):
    one = shapes.generate(tmp_path / "one", train=4, val=2, seed=3, workers=1)
    two = shapes.generate(tmp_path / "two", train=4, val=2, seed=3, workers=2)
    assert contents(one) == contents(two)


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so_and_does_not_hang(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from maskrcnn.data.datasets.shapes import generate\n"
        f"generate({str(tmp_path / 'root')!r}, train=2, val=1, workers=2)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode != 0 and "if __name__ == '__main__'" in done.stderr
    assert not (tmp_path / "root" / "shapes").exists()


def test_an_image_depends_on_seed_split_and_index_only(folder, tmp_path):
    fewer = shapes.generate(tmp_path, train=2, val=1, workers=1)
    assert (fewer / "train" / "000002.jpg").read_bytes() == (folder / "train" / "000002.jpg").read_bytes()
    other_seed = shapes.generate(tmp_path, train=2, val=1, seed=1, workers=1)
    assert (other_seed / "train" / "000002.jpg").read_bytes() != (folder / "train" / "000002.jpg").read_bytes()


def test_a_data_set_that_is_there_is_not_drawn_again(tmp_path):
    folder = shapes.generate(tmp_path, train=1, val=1, workers=1)
    before = os.stat(folder / "stamp.json").st_mtime_ns
    assert shapes.generate(tmp_path, train=1, val=1, workers=1) == folder
    assert os.stat(folder / "stamp.json").st_mtime_ns == before


def test_another_version_or_size_replaces_the_data_set(tmp_path, monkeypatch):
    shapes.generate(tmp_path, train=1, val=1, workers=1)
    folder = shapes.generate(tmp_path, train=2, val=1, workers=1)
    assert len(list((folder / "train").iterdir())) == 2
    monkeypatch.setattr(shapes, "VERSION", "next")
    shapes.generate(tmp_path, train=2, val=1, workers=1)
    assert json.loads((folder / "stamp.json").read_text())["version"] == "next"
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["shapes"], "nothing is left over"


def test_a_run_that_dies_leaves_no_data_set_and_the_next_cleans_up(tmp_path, monkeypatch):
    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shapes, "annotate", die)
        shapes.generate(tmp_path, train=1, val=1, workers=1)
    assert not (tmp_path / "shapes").exists()
    shapes.generate(tmp_path, train=1, val=1, workers=1)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["shapes"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "mine.txt").write_text("precious")
    with pytest.raises(DatasetError, match=r"shapes has no stamp\.json"):
        shapes.generate(tmp_path, train=1, val=1, workers=1)
    assert (tmp_path / "shapes" / "mine.txt").read_text() == "precious"


def test_the_registered_names_read_what_was_drawn(folder, coco, monkeypatch):
    monkeypatch.setattr(shapes, "generate", lambda root: folder)
    train, val = (DATASETS.get(name)(folder.parent) for name in ("shapes_train", "shapes_val"))
    assert (len(train), len(val)) == (IMAGES, 3)
    assert train.class_names == tuple(c.name for c in CATEGORIES)
    assert train.category_ids == tuple(c.id for c in CATEGORIES)
    assert set(train[0].path.parent.iterdir()) == {train[i].path for i in range(IMAGES)}
