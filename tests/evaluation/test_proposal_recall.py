"""Average recall of proposals against the official tool, COCO's matching in words, and by hand; the file; processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
import torch.multiprocessing as mp
from processes import in_processes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.data import Dataset, ImageRecord, ObjectRecord
from maskrcnn.evaluation import ProposalEvaluator
from maskrcnn.evaluation.proposals import PROPOSALS_FILE, THRESHOLDS, finders
from maskrcnn.registry import EVALUATORS
from maskrcnn.structures import Proposals, Sample

SIZE = (300, 400)


def random_record(rng: np.random.Generator, image_id: int, count: int) -> ImageRecord:
    """Objects of all sizes, some of them crowd regions; whole numbers, which every form of a box says exactly."""
    corners = rng.integers(0, 150, (count, 2))
    sides = np.maximum(2, 2.0 ** rng.uniform(2, 7.5, (count, 2))).astype(int)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    objects = [
        ObjectRecord(
            id=i, box=box, label=i % 3, crowd=rng.random() < 0.15, area=float(0.7 * np.prod(box[2:] - box[:2]))
        )
        for i, box in enumerate(boxes)
    ]
    return ImageRecord(image_id=image_id, path=Path(f"{image_id}.png"), size=SIZE, objects=objects)


def dataset_of(records: list[ImageRecord]) -> Dataset:
    return Dataset.from_records(records, class_names=("a", "b", "c"), category_ids=(2, 5, 9), name="random")


def guesses(rng: np.random.Generator, record: ImageRecord, count: int) -> Proposals:
    """Boxes about the objects, near and far, and on nothing."""
    boxes = rng.uniform(0, 150, (count, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    for row in range(0, count, 2):
        if record.objects:
            box = record.objects[rng.integers(len(record.objects))].box
            noise = rng.normal(0, rng.choice([0.02, 0.1, 0.3]), 4) * np.tile(box[2:] - box[:2], 2)
            boxes[row] = box + noise.astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    return Proposals(torch.from_numpy(boxes), torch.from_numpy(rng.random(count).astype(np.float32)), SIZE)


def process(evaluator: ProposalEvaluator, image_id: int, proposals: Proposals) -> None:
    sample = Sample(image=torch.zeros(3, 4, 4, dtype=torch.uint8), image_id=image_id, original_size=SIZE)
    evaluator.process([sample], [proposals])


def official(dataset: Dataset, found: dict[int, Proposals]) -> dict[str, float]:
    annotations = [
        {
            "id": 1 + 100 * record.image_id + obj.id,
            "image_id": record.image_id,
            "category_id": dataset.category_ids[obj.label],
            "bbox": [*obj.box[:2].tolist(), *(obj.box[2:] - obj.box[:2]).tolist()],
            "area": obj.area,
            "iscrowd": int(obj.crowd),
        }
        for record in dataset
        for obj in record.objects
    ]
    truth = COCO()
    images = [{"id": record.image_id, "height": SIZE[0], "width": SIZE[1]} for record in dataset]
    truth.dataset = {"images": images, "annotations": annotations, "categories": [{"id": i} for i in (2, 5, 9)]}
    truth.createIndex()
    results = [
        {"image_id": i, "category_id": 2, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for i, p in found.items()
        for (x1, y1, x2, y2), score in zip(p.boxes.tolist(), p.scores.tolist(), strict=True)
    ]
    run = COCOeval(truth, truth.loadRes(results), "bbox")
    run.params.useCats, run.params.maxDets = 0, [100, 1000]
    run.evaluate()
    run.accumulate()
    recall = run.eval["recall"]  # (T, 1, A, M)
    names = [f"proposals/AR{size}@{limit}" for limit in (100, 1000) for size in ("", "s", "m", "l")]
    cells = [recall[:, 0, area, limit] for limit in range(2) for area in range(4)]
    return {n: 100 * c[c > -1].mean() if (c > -1).any() else -1.0 for n, c in zip(names, cells, strict=True)}


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_the_official_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    records = [random_record(rng, i, int(rng.integers(0, 25))) for i in range(12)]
    found = {record.image_id: guesses(rng, record, int(rng.choice([0, 5, 90, 160, 1100]))) for record in records}
    dataset = dataset_of(records)
    evaluator = ProposalEvaluator(dataset, None)
    for image_id, proposals in found.items():
        process(evaluator, image_id, proposals)
    figures = evaluator.result()
    assert figures == pytest.approx(official(dataset, found), abs=1e-9)
    assert tuple(figures) == evaluator.metrics
    assert 10 < figures["proposals/AR@100"] < figures["proposals/AR@1000"] < 95


def one_by_one(overlaps: np.ndarray, of_size: np.ndarray) -> np.ndarray:
    """COCO's matching as it is told."""
    count, objects = overlaps.shape
    ranks = np.full((len(of_size), len(THRESHOLDS), objects), count)
    for size, counts in enumerate(of_size):
        for t, threshold in enumerate(THRESHOLDS):
            free = counts.copy()
            for proposal in range(count):
                best, chosen = threshold, -1
                for obj in range(objects):
                    if free[obj] and overlaps[proposal, obj] >= best:
                        best, chosen = overlaps[proposal, obj], obj
                if chosen >= 0:
                    free[chosen], ranks[size, t, chosen] = False, proposal
    return ranks


def test_matching_also_of_equal_overlaps() -> None:
    rng = np.random.default_rng(0)
    for decimals in (1, 1, 2, 6) * 10:  # one decimal: most overlaps have an equal one
        overlaps = np.round(rng.random((int(rng.integers(0, 30)), int(rng.integers(0, 9)))) ** 0.5, decimals)
        of_size = rng.random((4, overlaps.shape[1])) < 0.6
        assert (finders(overlaps, of_size) == one_by_one(overlaps, of_size)).all()


def test_figures_by_hand() -> None:
    box = np.array([10, 10, 50, 50], np.float32)  # 1600 pixels: of medium size
    record = ImageRecord(7, Path("7.png"), SIZE, [ObjectRecord(id=1, box=box, label=0, crowd=False, area=1600.0)])
    evaluator = EVALUATORS.get("proposals")(dataset=dataset_of([record]), output_dir=None, detections_per_image=5)
    boxes = torch.tensor([[10.0, 10, 50, 38]]).expand(1, 4)  # IoU 0.7: at five of the ten thresholds
    process(evaluator, 7, Proposals(boxes, torch.ones(1), SIZE))
    figures = evaluator.result()
    assert figures["proposals/AR@100"] == figures["proposals/ARm@1000"] == pytest.approx(50)
    assert figures["proposals/ARs@100"] == figures["proposals/ARl@1000"] == -1
    assert [line.split() for line in evaluator.table().splitlines()][1:] == [
        ["100", "50.0", "-", "50.0", "-"],
        ["1000", "50.0", "-", "50.0", "-"],
    ]


def test_images_without_proposals_or_objects_and_nothing_at_all() -> None:
    rng = np.random.default_rng(0)
    records = [random_record(rng, 0, 5), random_record(rng, 1, 0)]
    evaluator = ProposalEvaluator(dataset_of(records), None)
    for record in records:
        process(evaluator, record.image_id, guesses(rng, record, 0))
    assert evaluator.result()["proposals/AR@100"] == 0
    assert evaluator.result()["proposals/AR@100"] == 0  # nothing was evaluated: the objects are missed all the same
    empty = ProposalEvaluator(dataset_of([random_record(rng, 1, 0)]), None)
    process(empty, 1, guesses(rng, records[1], 4))
    assert set(empty.result().values()) == {-1.0}


def test_a_proposal_that_is_no_number_and_an_unknown_image() -> None:
    record = random_record(np.random.default_rng(0), 3, 2)
    evaluator = ProposalEvaluator(dataset_of([record]), None)
    proposals = Proposals(torch.tensor([[0.0, 0, float("nan"), 1]]), torch.ones(1), SIZE)
    with pytest.raises(ValueError, match="image 3: a proposal's box or score is not a finite number"):
        process(evaluator, 3, proposals)
    with pytest.raises(ValueError, match="image id 4 is not in the data set 'random'"):
        process(evaluator, 4, proposals[:0])


def test_all_proposals_are_in_the_file_the_best_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [random_record(rng, i, 3) for i in (30, 4, 17)]
    found = {record.image_id: guesses(rng, record, count) for record, count in zip(records, (3, 0, 1200), strict=True)}
    evaluator = ProposalEvaluator(dataset_of(records), tmp_path / "inference")
    for image_id in (17, 4, 30):
        process(evaluator, image_id, found[image_id])
    evaluator.result()
    with safetensors.safe_open(tmp_path / "inference" / PROPOSALS_FILE, framework="pt") as file:
        facts = {key: json.loads(value) for key, value in file.metadata().items()}
        boxes, scores, offsets = (file.get_tensor(key) for key in ("boxes", "scores", "offsets"))
    images = [[record.path.name, *record.size] for record in records]
    assert facts == {"dataset": "random", "image_ids": [30, 4, 17], "images": images}  # in the order of the data set
    assert offsets.tolist() == [0, 3, 3, 1203] and boxes.dtype == scores.dtype == torch.float32
    for i, image_id in enumerate((30, 4, 17)):
        order = np.argsort(-found[image_id].scores.numpy(), kind="stable").tolist()
        assert torch.equal(boxes[offsets[i] : offsets[i + 1]], found[image_id].boxes[order])
        assert torch.equal(scores[offsets[i] : offsets[i + 1]], found[image_id].scores[order])
    assert [path.name for path in (tmp_path / "inference").iterdir()] == [PROPOSALS_FILE]


def test_a_file_that_cannot_be_written_costs_no_figures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = random_record(np.random.default_rng(0), 3, 2)
    (tmp_path / "file").touch()
    evaluator = ProposalEvaluator(dataset_of([record]), tmp_path / "file" / "inside")
    process(evaluator, 3, guesses(np.random.default_rng(0), record, 5))
    assert evaluator.result()["proposals/AR@100"] > 0
    assert "the proposals could not be written to" in caplog.text


def content(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Not the bytes of the file: the order of its metadata is left to chance."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata(), {key: file.get_tensor(key).tobytes() for key in ("boxes", "scores", "offsets")}


def evaluate_share(rank: int, shares: list[list[int]], folder: Path) -> dict[str, float]:
    rng = np.random.default_rng(0)
    records = [random_record(rng, i, 6) for i in range(5)]
    found = {record.image_id: guesses(rng, record, 150) for record in records}
    evaluator = ProposalEvaluator(dataset_of(records), folder)
    for image_id in shares[rank]:
        process(evaluator, image_id, found[image_id])
    return evaluator.result()


@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")
@pytest.mark.parametrize("shares", [[[0, 2, 4], [1, 3]], [[], [4, 2, 1, 0, 3, 1]]], ids=["two", "one has all, twice"])
def test_figures_and_file_of_several_processes_are_those_of_one(tmp_path: Path, shares: list[list[int]]) -> None:
    alone = evaluate_share(0, [[0, 1, 2, 3, 4]], tmp_path / "alone")
    assert in_processes(2, evaluate_share, shares, tmp_path / "together") == [alone, alone]
    files = [content(tmp_path / name / PROPOSALS_FILE) for name in ("alone", "together")]
    assert files[0] == files[1]
