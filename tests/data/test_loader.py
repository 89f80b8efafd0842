"""The streams of batches: complete, even, the same whatever the workers, processes and interruptions."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.data import loader
from maskrcnn.data.datasets.coco import read_coco
from maskrcnn.data.loader import PackedBatch, TrainingBatches, build_test_loader, build_train_loader
from maskrcnn.data.mappers import InstanceMapper
from maskrcnn.data.records import DatasetError
from maskrcnn.data.transforms import RandomHorizontalFlip, ResizeShortestEdge

TRAIN = InstanceMapper([ResizeShortestEdge((20, 30), 100, "range"), RandomHorizontalFlip(0.5)], training=True)


@pytest.fixture
def data(tmp_path, coco_folder):
    """9 images: every third is tall, all but three have an object."""
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for i in range(9):
        h, w = (40, 20) if i % 3 == 0 else (20, 40)
        cv2.imwrite(str(coco_folder.images / f"{i}.png"), rng.integers(0, 255, (h, w, 3), dtype=np.uint8))
        images.append({"id": i, "file_name": f"{i}.png", "height": h, "width": w})
        if i % 3 != 2:
            annotations.append(
                {"id": i, "image_id": i, "category_id": 3, "bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 9, 1, 9, 9]]}
            )
    coco_folder.data |= {"images": images, "annotations": annotations}
    coco_folder.write()
    return read_coco(coco_folder.json_path, coco_folder.images)


def take(data, count: int, **changes) -> list:
    options = {"batch_size": 2, "num_workers": 0, "seed": 3, "filter_empty": False} | changes
    return list(itertools.islice(build_train_loader(data, TRAIN, **options), count))


def ids(batches) -> list[list[int]]:
    return [[sample.image_id for sample in batch] for batch in batches]


def assert_same(first: list, second: list) -> None:
    assert ids(first) == ids(second)
    for a, b in zip(itertools.chain(*first), itertools.chain(*second), strict=True):
        torch.testing.assert_close(a.image, b.image, rtol=0, atol=0)
        torch.testing.assert_close(a.targets.boxes, b.targets.boxes, rtol=0, atol=0)
        torch.testing.assert_close(a.targets.masks.points, b.targets.masks.points, rtol=0, atol=0)
        assert a.original_size == b.original_size


def test_every_image_once_per_epoch(data):
    seen = ids(take(data, 9, batch_size=3, aspect_ratio_grouping=False))
    epochs = [sorted(itertools.chain(*seen[i : i + 3])) for i in (0, 3, 6)]
    assert epochs == [list(range(9))] * 3
    assert seen[:3] != seen[3:6]  # in another order


def test_batches_hold_wide_or_tall_images(data):
    batches = take(data, 36)
    for batch in batches:
        assert len({s.original_size for s in batch}) == 1
    counts = Counter(itertools.chain(*ids(batches)))  # 8 epochs
    assert all(7 <= counts[i] <= 8 for i in range(9))


def test_images_without_objects_are_left_out(data):
    batches = take(data, 20, filter_empty=True)
    assert {i for batch in ids(batches) for i in batch} == {0, 1, 3, 4, 6, 7}
    assert all(len(s.targets) == 1 for batch in batches for s in batch)
    assert {i for batch in ids(take(data, 20)) for i in batch} == set(range(9))


def test_images_with_few_labelled_keypoints_are_left_out(data, coco_folder):
    with pytest.raises(DatasetError, match=r"none of its 9 images has 1 labelled keypoints .*MIN_KEYPOINTS"):
        take(data, 1, min_keypoints=1)
    for annotation, labelled in zip(coco_folder.data["annotations"], (0, 1, 2, 3, 17, 3), strict=True):
        annotation |= {"keypoints": [5, 5, 2] * labelled + [0, 0, 0] * (17 - labelled), "num_keypoints": labelled}
    coco_folder.data["annotations"][-1] |= {"iscrowd": 1, "segmentation": {"size": [20, 40], "counts": [0, 800]}}
    points = read_coco(coco_folder.write().json_path, coco_folder.images)
    assert points.num_keypoints.tolist() == [0, 1, 0, 2, 3, 0, 17, 0, 0]
    for least, kept in ((0, set(range(9))), (1, {1, 3, 4, 6}), (3, {4, 6})):
        assert {i for batch in ids(take(points, 20, min_keypoints=least)) for i in batch} == kept


def test_seeds(data):
    assert_same(take(data, 6), take(data, 6))
    assert ids(take(data, 6)) != ids(take(data, 6, seed=4))


def test_repeated_images_look_different(data):
    samples = list(itertools.chain(*take(data, 36)))
    assert len({(s.size, tuple(s.targets.boxes[0].tolist())) for s in samples if s.image_id == 1}) > 4


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_number_of_workers_does_not_matter(data, num_workers):
    assert_same(take(data, 12), take(data, 12, num_workers=num_workers))


@pytest.mark.parametrize("start", [1, 5, 11])
def test_resuming_gives_the_batches_of_an_uninterrupted_run(data, start):
    assert_same(take(data, 12)[start:], take(data, 12 - start, start_iteration=start))


def test_processes_share_the_batches_of_one(data, monkeypatch):
    whole = take(data, 6, batch_size=4)
    monkeypatch.setattr(loader, "world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        shares.append(take(data, 6, batch_size=4))
    assert_same(whole, [[a[0], b[0], a[1], b[1]] for a, b in zip(*shares, strict=True)])
    with pytest.raises(ValueError, match="batch of 3 images cannot be divided among 2 processes"):
        take(data, 1, batch_size=3)


def test_nothing_to_train_on(data, coco_folder):
    coco_folder.data["annotations"] = []
    empty = read_coco(coco_folder.write().json_path, coco_folder.images)
    with pytest.raises(DatasetError, match=r"annotations\.json: none of its 9 images .*FILTER_EMPTY_ANNOTATIONS"):
        take(empty, 1, filter_empty=True)
    batches = take(empty, 3)
    assert all(len(s.targets) == 0 for batch in batches for s in batch)


def test_a_batch_larger_than_the_data_set():
    batches = TrainingBatches(np.arange(2), np.zeros(2), batch_size=5, seed=0, start_iteration=0)
    first, second = itertools.islice(batches, 2)
    assert sorted(i for i, _ in first + second) == [0] * 5 + [1] * 5
    assert [position for _, position in first + second] == list(range(10))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_one_clear_error(data, num_workers):
    for i in range(9):
        data[i].path.write_bytes(b"\x89PNG")
    with pytest.raises(DatasetError, match=r"^\S*\.png: not an image file") as caught:
        take(data, 1, num_workers=num_workers)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(DatasetError, match=r"^\S*0\.png"):
        list(build_test_loader(data, InstanceMapper([], training=False), num_workers=num_workers))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_loader_shows_each_image_once_in_order(data, num_workers):
    test = build_test_loader(data, InstanceMapper([], training=False), batch_size=2, num_workers=num_workers)
    assert len(test) == 5
    for _ in range(2):
        assert ids(test) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    with pytest.raises(ValueError, match="at least 1"):
        build_test_loader(data, TRAIN, batch_size=0, num_workers=0)


@pytest.mark.parametrize("world", [2, 4, 10])
def test_test_loaders_of_several_processes(data, monkeypatch, world):
    monkeypatch.setattr(loader, "world_size", lambda: world)
    seen = []
    for rank in range(world):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        share = build_test_loader(data, InstanceMapper([], training=False), batch_size=2, num_workers=0)
        seen += itertools.chain(*ids(share))
        assert len(share) == len(list(share))
    assert sorted(seen) == list(range(9))


def test_loaders_leave_the_global_generator_alone(data):
    before = torch.get_rng_state()
    take(data, 2)
    list(build_test_loader(data, InstanceMapper([], training=False), num_workers=0))
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_spawned_workers(data, monkeypatch):
    def spawned(*args, **options):
        return torch.utils.data.DataLoader(*args, multiprocessing_context="spawn", **options)

    expected = take(data, 2)
    monkeypatch.setattr(loader, "DataLoader", spawned)
    assert_same(expected, take(data, 2, num_workers=1))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are not forked here")
def test_workers_start_after_opencv_has_used_its_threads(data, monkeypatch):
    def limited(*args, **options):
        return torch.utils.data.DataLoader(*args, multiprocessing_context="fork", timeout=100, **options)

    expected = take(data, 1)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.GaussianBlur(np.zeros((2000, 2000), np.uint8), (9, 9), 3)  # starts the pool
        monkeypatch.setattr(loader, "DataLoader", limited)
        assert_same(expected, take(data, 1, num_workers=1))
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)


def test_a_packed_batch_is_one_block(data):
    (batch,) = take(data, 1)
    packed = pickle.loads(pickle.dumps(PackedBatch(batch)))
    unpacked = packed.unpack()
    assert_same([batch], [unpacked])
    assert unpacked[0].image.stride() == batch[0].image.stride()
    unpacked[0].targets.boxes.mul_(2)  # writable
    assert PackedBatch([torch.tensor(3.0), torch.zeros(0, 4)]).unpack()[0] == 3


def test_too_little_shared_memory_says_what_to_do(data, monkeypatch):
    def too_small(arrays):
        raise RuntimeError("unable to allocate shared memory")

    monkeypatch.setattr(loader, "SharedArrays", too_small)
    with pytest.raises(RuntimeError, match="--shm-size.*NUM_WORKERS"):
        PackedBatch(take(data, 1)[0])


def test_real_data_with_masks(real_data):
    """One epoch of coco_mini's validation images, with two workers: every object is there, with its mask."""
    val = read_coco(real_data / "coco_mini/annotations/instances_val.json", real_data / "coco_mini/val")
    mapper = InstanceMapper([ResizeShortestEdge((200,), 333)], training=True)
    samples = list(itertools.chain(*build_test_loader(val, mapper, batch_size=4, num_workers=2)))
    assert [s.image_id for s in samples] == val.image_ids.tolist()
    assert [len(s.targets) for s in samples] == val.num_objects.tolist()
    filled = [s.targets.masks.crop(torch.arange(len(s.targets)), s.targets.boxes, 28).mean(dim=(1, 2)) for s in samples]
    share = torch.cat(filled)
    assert len(share) == 927
    assert (share > 0).float().mean() > 0.98
    assert 0.5 < share.mean() < 0.75  # objects fill about two thirds of their boxes
