"""Proposals from a file: every way in which it can be wrong, and their way through the loader into samples."""

from __future__ import annotations

import json
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.multiprocessing  # noqa: F401  teaches the pickler to share tensors
from safetensors.numpy import save_file

from maskrcnn.data import (
    Dataset,
    DatasetError,
    InstanceMapper,
    RandomHorizontalFlip,
    ResizeShortestEdge,
    build_test_loader,
    build_train_loader,
    concatenate,
    read_coco,
)
from maskrcnn.data.proposal_files import read_proposals
from maskrcnn.evaluation import write_proposals

BOXES = {  # by image; the second has none
    20: (np.array([[1, 2, 11, 22], [0, 0, 20, 50], [3.5, 4, 7, 9]], np.float32), np.array([0.9, 0.8, 0.1], np.float32)),
    10: (np.zeros((0, 4), np.float32), np.zeros(0, np.float32)),
    0: (np.array([[4, 6, 30, 20]], np.float32), np.array([0.5], np.float32)),
    99: (np.array([[1, 1, 2, 2]], np.float32), np.array([0.7], np.float32)),  # of an image that is not asked for
}


@pytest.fixture
def dataset(coco_folder) -> Dataset:
    coco_folder.write()
    return read_coco(coco_folder.json_path, coco_folder.images)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_proposals(tmp_path / "proposals.safetensors", BOXES, "annotations")
    return tmp_path / "proposals.safetensors"


def test_every_image_gets_its_own_ones(dataset: Dataset, path: Path) -> None:
    with_proposals = dataset.with_proposals(read_proposals(path, dataset))
    assert dataset[0].proposals is None
    for record in with_proposals:
        for found, written in zip(record.proposals, BOXES[record.image_id], strict=True):
            assert found.dtype == np.float32 and np.array_equal(found, written)
            with pytest.raises(ValueError, match="read-only"):
                found[...] = 0


def test_of_several_data_sets_each_keeps_its_own(dataset: Dataset, path: Path, tmp_path: Path) -> None:
    moved = {image: (boxes + 1, scores) for image, (boxes, scores) in BOXES.items()}
    write_proposals(tmp_path / "other.safetensors", moved, "annotations")
    parts = [dataset.with_proposals(read_proposals(p, dataset)) for p in (path, tmp_path / "other.safetensors")]
    whole = concatenate(parts)
    assert len(whole) == 6
    for i, record in enumerate(whole):
        expected = (BOXES, moved)[i >= 3][record.image_id]
        assert all(np.array_equal(a, b) for a, b in zip(record.proposals, expected, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_have_them_in_the_frame_of_the_image(dataset: Dataset, path: Path, workers: int) -> None:
    data = dataset.with_proposals(read_proposals(path, dataset))
    mapper = InstanceMapper([ResizeShortestEdge((60,), 200), RandomHorizontalFlip(1.0)], training=False)
    samples = [s for batch in build_test_loader(data, mapper, batch_size=2, num_workers=workers) for s in batch]
    assert [s.image_id for s in samples] == data.image_ids.tolist()
    for sample in samples:
        boxes, scores = BOXES[sample.image_id]
        scale = sample.size[1] / sample.original_size[1]
        x1, y1, x2, y2 = boxes.T * scale
        mirrored = np.stack([sample.size[1] - x2, y1, sample.size[1] - x1, y2], axis=1)
        np.testing.assert_allclose(sample.proposals.boxes.numpy(), mirrored, rtol=1e-6)
        assert sample.proposals.size == sample.size
        assert np.array_equal(sample.proposals.scores.numpy(), scores)


def test_training_batches_have_them_too(dataset: Dataset, path: Path) -> None:
    data = dataset.with_proposals(read_proposals(path, dataset))
    mapper = InstanceMapper([], training=True)
    batch = next(build_train_loader(data, mapper, batch_size=2, num_workers=0, seed=0, aspect_ratio_grouping=False))
    assert {s.image_id: len(s.proposals) for s in batch} == {20: 3, 0: 1}


def test_processes_share_the_memory(dataset: Dataset, path: Path) -> None:
    """What goes to a worker that is started afresh is where the block lies, not what is in it."""
    many = {image: (np.tile(BOXES[20][0], (5000, 1)), np.tile(BOXES[20][1], 5000)) for image in BOXES}
    write_proposals(path, many, "annotations")
    data = dataset.with_proposals(read_proposals(path, dataset))
    sent = ForkingPickler.dumps(data)
    assert len(sent) < 20_000
    copy = pickle.loads(sent)
    assert np.array_equal(copy[2].proposals[0], data[2].proposals[0])
    assert all(view.base is not None for view in data[0].proposals)


def change(path: Path, *, metadata: dict[str, Any] | None = None, without: str = "", **arrays: np.ndarray) -> None:
    """The file again, with something else in it."""
    content = {
        "boxes": np.concatenate([boxes for boxes, _ in BOXES.values()]),
        "scores": np.concatenate([scores for _, scores in BOXES.values()]),
        "offsets": np.array([0, 3, 3, 4, 5]),
    }
    content = {key: value for key, value in (content | arrays).items() if key != without}
    facts = FACTS if metadata is None else metadata
    save_file(content, path, {key: json.dumps(value) for key, value in facts.items()})


FACTS = {"dataset": "annotations", "image_ids": list(BOXES)}
BOX = np.array([[0, 0, 1, 1]] * 5, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"dataset": "coco", "image_ids": [20]}}, "its 'dataset' is 'coco', but .* of 'annotations'"),
        ({"metadata": {"dataset": "annotations"}}, "no 'image_ids' in its metadata"),
        ({"metadata": {}}, "no 'dataset' in its metadata"),
        (
            {"metadata": {"dataset": "annotations", "image_ids": [20, 10, 1, 99]}},
            "'image_ids' lacks 1 of the 3 images of .*annotations.json, the first being 0",
        ),
        ({"metadata": {"dataset": "annotations", "image_ids": [20, 10, 0]}}, r"'offsets' has shape \(5,\).*\(4,\)"),
        ({"metadata": {"dataset": "annotations", "image_ids": 3}}, "'image_ids' is 3; expected a list"),
        ({"metadata": {"dataset": "annotations", "image_ids": [[5], [6]]}}, r"\[5\] is one of 'image_ids'; expected"),
        ({"metadata": FACTS | {"images": [["a.png", 4, 4]]}}, "'images' in its metadata is no list .* each of the 4"),
        ({"metadata": FACTS | {"images": [1, 2, 3, 4]}}, "'images' in its metadata is no list of .name, height, width"),
        ({"without": "scores"}, "has no scores: it is no file of proposals"),
        ({"boxes": BOX.astype(np.float64)}, "'boxes' is float64 of shape"),
        ({"boxes": BOX[:, :3]}, r"'boxes' has shape \(5, 3\); expected \(5, 4\)"),
        ({"boxes": BOX.ravel()}, r"'boxes' is float32 of shape \(20,\)"),
        ({"scores": np.zeros(4, np.float32)}, r"'scores' has shape \(4,\); expected \(5,\)"),
        ({"offsets": np.array([0, 3, 3, 4, 4])}, "'offsets' goes from 0 to 4"),
        ({"offsets": np.array([0, 3, 2, 4, 5])}, "'offsets' goes from 0 to 5; expected numbers that rise"),
        ({"boxes": np.where(np.arange(5)[:, None] == 3, BOX[:, ::-1], BOX)}, r"row 3 is \[1.0, 1.0, 0.0, 0.0\]"),
        ({"boxes": np.where(np.arange(5)[:, None] == 2, np.float32(np.nan), BOX)}, r"row 2 is \[nan"),
        ({"scores": np.array([0, 0, 0, 0, np.inf], np.float32)}, "row 4 .* and inf in 'scores'"),
    ],
)
def test_what_is_wrong_is_said_with_its_file(dataset: Dataset, path: Path, changes, message: str) -> None:
    change(path, **changes)
    with pytest.raises(DatasetError, match=message) as error:
        read_proposals(path, dataset)
    assert str(path) in str(error.value)


def test_metadata_that_is_no_json(dataset: Dataset, path: Path) -> None:
    save_file({"boxes": BOX, "scores": BOX[:, 0], "offsets": np.arange(5)}, path, {"dataset": "tr", "image_ids": "[]"})
    with pytest.raises(DatasetError, match=r"'dataset' in its metadata is 'tr', which is no JSON"):
        read_proposals(path, dataset)


@pytest.mark.parametrize("wrong", ["name", "size"])
def test_another_data_set_of_that_name_and_those_ids(dataset: Dataset, path: Path, wrong: str) -> None:
    """As labelling tools write them: a file of the same name in every folder, ids from 0."""
    images = {i: ("x.png", 1, 2) for i in BOXES}
    images |= {record.image_id: (record.path.name, *record.size) for record in dataset}
    write_proposals(path, BOXES, "annotations", images=images)
    assert len(read_proposals(path, dataset)) == 3
    name, height, width = images[10]
    images[10] = ("other.png", height, width) if wrong == "name" else (name, height + 1, width)
    write_proposals(path, BOXES, "annotations", images=images)
    before, now = f"'{images[10][0]}' of {width} x {images[10][1]} pixels", f"'{name}' of {width} x {height} pixels"
    message = f"image 10 was {before}, but in .*annotations.json it is {now}"
    with pytest.raises(DatasetError, match=message):
        read_proposals(path, dataset)


def test_no_file_and_another_one(dataset: Dataset, path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no file of proposals .*nothing"):
        read_proposals(path.with_name("nothing"), dataset)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DatasetError, match=r"proposals.safetensors is truncated, or no safetensors file"):
        read_proposals(path, dataset)
