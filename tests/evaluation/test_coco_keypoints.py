"""Keypoint AP against pycocotools, and against a hand-computed case."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.data.datasets import read_coco
from maskrcnn.data.records import Dataset
from maskrcnn.evaluation import CocoEvaluator, CocoKeypointEvaluator
from maskrcnn.registry import EVALUATORS
from maskrcnn.structures import Detections, Sample

SIZE = (220, 260)
FIGURES = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]


def person(box: list[float], keypoints: np.ndarray, *, image_id: int = 1, crowd: bool = False) -> dict:
    """`keypoints` (17, 3) as in a file: pixel indices."""
    x, y, w, h = box
    return {
        "image_id": image_id,
        "category_id": 1,
        "bbox": box,
        "area": 0.6 * w * h,
        "iscrowd": int(crowd),
        "segmentation": {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
        if crowd
        else [[x, y, x + w, y, x, y + h]],
        "keypoints": keypoints.flatten().tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def random_people(rng: np.random.Generator, image_id: int) -> list[dict]:
    """Of all sizes; some without any labelled keypoint, some crowd regions."""
    people = []
    for kind in rng.choice(["usual", "unlabelled", "crowd"], size=rng.integers(0, 7), p=[0.7, 0.2, 0.1]):
        w, h = np.exp(rng.uniform(np.log(20), np.log(200), size=2))
        x, y = rng.uniform(0, SIZE[1] - w), rng.uniform(0, SIZE[0] - h)
        points = np.column_stack([rng.uniform(x, x + w, 17), rng.uniform(y, y + h, 17), rng.integers(0, 3, 17)])
        points = np.round(points) * (points[:, 2:] > 0) * (kind == "usual")
        people.append(person([x, y, w, h], points, image_id=image_id, crowd=kind == "crowd"))
    return people


def write_dataset(folder: Path, annotations: list[dict], image_ids: list[int]) -> Dataset:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in image_ids]
    for image in images:
        (folder / image["file_name"]).touch()
    for i, annotation in enumerate(annotations):
        annotation["id"] = 1 + i
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "person_keypoints.json").write_text(json.dumps(content))
    return read_coco(folder / "person_keypoints.json", folder)


def detections(people: list[tuple[list[float], np.ndarray, float]]) -> Detections:
    """Rows of box (x, y, w, h), keypoints (17, 2) as pixel indices, and score."""
    boxes = torch.tensor([[x, y, x + w, y + h] for (x, y, w, h), _, _ in people]).float().reshape(-1, 4)
    points = torch.tensor(np.array([np.column_stack([p + 0.5, np.ones(17)]) for _, p, _ in people])).float()
    scores = torch.tensor([score for _, _, score in people]).float()
    return Detections(boxes, scores, torch.zeros(len(people)).long(), SIZE, None, points.reshape(-1, 17, 3))


def random_detections(rng: np.random.Generator, people: list[dict]) -> Detections:
    """Near the people, doubled here and there, with false ones: more than 20 in an image. Many scores are equal."""
    rows = []
    for a in people:
        points = np.array(a["keypoints"]).reshape(17, 3)
        for _ in range(rng.integers(0, 5)):
            scale = math.sqrt(a["area"]) * rng.choice([0.01, 0.05, 0.15])
            rows.append((a["bbox"], points[:, :2] + rng.normal(0, scale, (17, 2)), rng.integers(3, 11) / 10))
    for _ in range(6):
        box = [*rng.uniform(0, 100, 2).tolist(), *rng.uniform(5, 100, 2).tolist()]
        rows.append((box, rng.uniform(0, 1, (17, 2)) * box[2:] + box[:2], rng.integers(1, 8) / 10))
    return detections(rows)


def sample(image_id: int) -> Sample:
    return Sample(image=torch.zeros(3, 4, 4, dtype=torch.uint8), image_id=image_id, original_size=SIZE)


def official(dataset: Dataset, results: list[dict]) -> COCOeval:
    """The official tool, given the fields of a keypoint results file."""
    kept = [{k: r[k] for k in ("image_id", "category_id", "score", "keypoints")} for r in results]
    truth = COCO(str(dataset.json_path))
    run = COCOeval(truth, truth.loadRes(kept), "keypoints")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run


def evaluate_at_random(dataset: Dataset, people: dict[int, list[dict]], folder: Path | None) -> dict[str, float]:
    evaluator = CocoKeypointEvaluator(dataset, folder, 100, masks=False)
    rng = np.random.default_rng(1)
    for i, annotations in people.items():
        evaluator.process([sample(i)], [random_detections(rng, annotations)])
    result = evaluator.result()
    assert list(result) == list(evaluator.metrics)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_are_those_of_pycocotools(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = {int(i): random_people(rng, int(i)) for i in rng.permutation(1000)[:40]}
    everyone = [a for annotations in people.values() for a in annotations]
    assert any(a["iscrowd"] for a in everyone) and any(a["num_keypoints"] == 0 for a in everyone)
    dataset = write_dataset(tmp_path, everyone, list(people))
    result = evaluate_at_random(dataset, people, tmp_path / "results")
    results = json.loads((tmp_path / "results" / "coco_instances_results.json").read_text())
    run = official(dataset, results)
    ours = [result[f"keypoints/{name}"] for name in FIGURES]
    assert ours == pytest.approx([100 * v for v in run.stats], abs=1e-9)
    assert 0 < min(ours) and max(ours) < 100  # the case tests every figure
    assert result["keypoints/AP-person"] == result["keypoints/AP"] and result["keypoints/AP-dog"] == -1
    content = json.loads((tmp_path / "results" / "coco_figures.json").read_text())["kinds"]["keypoints"]
    assert content["figures"] == {name: result[f"keypoints/{name}"] for name in FIGURES}
    columns = content["by_class"]["columns"]
    assert columns == FIGURES[:6]
    assert content["by_class"]["rows"][0] == pytest.approx([result[f"keypoints/{name}"] for name in columns])
    assert content["precision"]["0.50"][0] == pytest.approx(run.eval["precision"][0, :, 0, 0, 0], abs=1e-5)

    copy = Dataset.from_records(
        iter(dataset), class_names=dataset.class_names, category_ids=dataset.category_ids, name="copy"
    )
    assert evaluate_at_random(copy, people, None) == pytest.approx(result, abs=0.05)  # areas of float32 boxes


def test_average_precision_by_hand(tmp_path: Path) -> None:
    """Two labelled keypoints; the nose is off so far that its term of the OKS is 0.48, so that the OKS is 0.74.

    It is right at the five thresholds 0.50 to 0.70. exp(-d^2 / (2 s^2 k^2)) with s^2 = 6000, k = 2 x 0.026.
    """
    keypoints = np.zeros((17, 3))
    keypoints[0], keypoints[1] = (50, 40, 2), (60, 45, 1)
    dataset = write_dataset(tmp_path, [person([10, 10, 100, 100], keypoints)], [1])
    found = keypoints[:, :2].copy()
    found[0, 0] += math.sqrt(-math.log(0.48) * 2 * 6000 * (2 * 0.026) ** 2)
    found[5:] = 7.0  # what is not labelled does not count
    evaluator = CocoKeypointEvaluator(dataset, None, 100)
    evaluator.process([sample(1)], [detections([([10, 10, 100, 100], found, 0.9)])])
    result = evaluator.result()
    assert result["keypoints/AP"] == result["keypoints/AR"] == pytest.approx(50)
    assert result["keypoints/AP50"] == result["keypoints/AR50"] == pytest.approx(100)
    assert result["keypoints/AP75"] == result["keypoints/AR75"] == 0
    assert result["keypoints/APm"] == result["keypoints/AP"] and result["keypoints/APl"] == -1  # 6000 px are medium
    assert result["bbox/AP"] == pytest.approx(100)
    table = evaluator.table().splitlines()
    assert table[4].split() == FIGURES and table[5].split()[:4] == ["keypoint", "50.0", "100.0", "0.0"]
    assert table[-2].split() == ["person", "1", "100.0", "-", "50.0"]  # box, mask and keypoint AP


def test_without_detections_or_their_keypoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keypoints = np.zeros((17, 3))
    keypoints[0] = (50, 40, 2)
    dataset = write_dataset(tmp_path, [person([10, 10, 100, 100], keypoints)], [1])
    evaluator = CocoKeypointEvaluator(dataset, None, 100, masks=False)
    evaluator.process([sample(1)], [Detections.empty(SIZE)])
    assert evaluator.result()["keypoints/AP"] == 0
    box = Detections(torch.tensor([[10.0, 10, 110, 110]]), torch.ones(1), torch.zeros(1).long(), SIZE)
    evaluator.process([sample(1)], [box])
    with caplog.at_level(logging.WARNING):
        result = evaluator.result()
    assert result["keypoints/AP"] == -1 and result["bbox/AP"] == pytest.approx(100)
    assert "the detections have no keypoints, so every keypoints figure is -1" in caplog.text


def test_ground_truth_without_labelled_keypoints_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = write_dataset(tmp_path, [person([10, 10, 100, 100], np.zeros((17, 3)))], [1])
    evaluator = CocoKeypointEvaluator(dataset, None, 100, masks=False)
    evaluator.process([sample(1)], [detections([([10, 10, 100, 100], np.ones((17, 2)), 0.9)])])
    with caplog.at_level(logging.WARNING):
        assert evaluator.result()["keypoints/AP"] == -1
    assert "no object of the ground truth has a labelled keypoint" in caplog.text


def test_the_data_set_must_have_keypoints(tmp_path: Path) -> None:
    annotation = person([10, 10, 100, 100], np.zeros((17, 3)))
    del annotation["keypoints"], annotation["num_keypoints"]
    dataset = write_dataset(tmp_path, [annotation], [1])
    with pytest.raises(ValueError, match=r"person_keypoints\.json has no keypoints for the evaluator 'coco_keypoints'"):
        CocoKeypointEvaluator(dataset, None, 100)
    assert EVALUATORS.get("coco_keypoints") is CocoKeypointEvaluator
    assert not any("keypoints" in name for name in CocoEvaluator(dataset, None, 100).metrics)
