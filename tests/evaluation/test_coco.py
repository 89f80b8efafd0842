"""The figures against pycocotools, against a hand-computed case, and what is said when there is nothing to score."""

import errno
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.data.datasets import read_coco
from maskrcnn.data.records import Dataset, ImageRecord, ObjectRecord, concatenate
from maskrcnn.evaluation import coco
from maskrcnn.evaluation.coco import CocoEvaluator
from maskrcnn.registry import EVALUATORS
from maskrcnn.structures import Detections, Sample

SIZE = (220, 260)
CATEGORIES = {3: "cat", 7: "dog", 18: "horse", 90: "toothbrush"}
FIGURES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs", "ARm", "ARl"]


def random_annotations(rng: np.random.Generator, image_id: int) -> list[dict]:
    """Polygons of two parts, RLE, and crowd regions with uncompressed RLE, from 6 to 200 pixels wide."""
    annotations = []
    for kind in rng.choice(["polygon", "rle", "crowd"], size=rng.integers(0, 9), p=[0.6, 0.25, 0.15]):
        w, h = np.exp(rng.uniform(np.log(6), np.log(200), size=2))
        x, y = rng.uniform(0, SIZE[1] - w), rng.uniform(0, SIZE[0] - h)
        bitmap = np.zeros(SIZE, np.uint8)
        bitmap[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = 1
        if kind == "polygon":
            middle = x + w / 2
            segmentation = [
                [x, y, middle - 1, y, middle - 1, y + h],
                [middle, y, x + w, y, x + w, y + h, middle, y + h],
            ]
            area = float(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(segmentation, *SIZE))))
        elif kind == "rle":
            rle = coco_mask.encode(np.asfortranarray(bitmap))
            segmentation, area = {"size": list(SIZE), "counts": rle["counts"].decode()}, float(bitmap.sum())
        else:
            changes = np.flatnonzero(np.diff(bitmap.T.ravel(), prepend=0, append=0))
            runs = np.diff([0, *changes, bitmap.size]).tolist()
            segmentation, area = (
                {"size": list(SIZE), "counts": [n for n in runs if n] if runs[0] else runs},
                float(w * h),
            )
        annotations.append(
            {
                "image_id": image_id,
                "category_id": int(rng.choice(list(CATEGORIES)[:3])),
                "bbox": [x, y, w, h],
                "area": area,
                "iscrowd": int(kind == "crowd"),
                "segmentation": segmentation,
            }
        )
    return annotations


def write_dataset(folder: Path, annotations: list[dict], image_ids: list[int], *, first_id: int = 1) -> Dataset:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in image_ids]
    for image in images:
        (folder / image["file_name"]).touch()
    for i, annotation in enumerate(annotations):
        annotation["id"] = first_id + i
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return read_coco(folder / "instances.json", folder)


def random_detections(rng: np.random.Generator, annotations: list[dict], *, masks: bool = True) -> Detections:
    """Near the objects, doubled here and there, with false ones; scores in tenths, so that many are equal."""
    ids = list(CATEGORIES)
    near = [a for a in annotations for _ in range(rng.integers(0, 4))]
    boxes = np.array([a["bbox"] for a in near] + [[*rng.uniform(0, 100, 2), *rng.uniform(5, 100, 2)] for _ in range(5)])
    boxes[:, 2:] += boxes[:, :2]
    boxes += rng.normal(0, 0.05, boxes.shape) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    labels = [ids.index(a["category_id"]) for a in near] + rng.integers(0, 4, 5).tolist()
    soft = rng.uniform(0.3, 1, (len(boxes), 14, 14)).astype(np.float32)
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32),
        scores=torch.tensor(rng.integers(1, 11, len(boxes)) / 10, dtype=torch.float32),
        labels=torch.tensor(labels),
        size=SIZE,
        masks=torch.from_numpy(soft) if masks else None,
    )


def sample(image_id: int) -> Sample:
    return Sample(image=torch.zeros(3, 4, 4, dtype=torch.uint8), image_id=image_id, original_size=SIZE)


def boxes_only(*rows: tuple[float, ...], label: int = 0) -> Detections:
    """Rows of x1, y1, x2, y2, score."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    labels = torch.full((len(rows),), label)
    return Detections(boxes=values[:, :4], scores=values[:, 4], labels=labels, size=SIZE)


def box_annotation(x: float, y: float, w: float, h: float, *, image_id: int = 1, category: int = 3) -> dict:
    return {"image_id": image_id, "category_id": category, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}


def official(json_path: Path, results: list[dict], kind: str, limits: list[int]) -> COCOeval:
    """The official tool, given each result as the official server would be."""
    kept = [{k: v for k, v in r.items() if k != ("bbox" if kind == "segm" else "segmentation")} for r in results]
    truth = COCO(str(json_path))
    run = COCOeval(truth, truth.loadRes(kept), kind)
    run.params.maxDets = limits
    run.evaluate()
    run.accumulate()
    return run


@pytest.fixture
def evaluated(tmp_path: Path) -> tuple[Dataset, CocoEvaluator, dict[str, float]]:
    rng = np.random.default_rng(5)
    image_ids = [int(i) for i in rng.permutation(1000)[:14]]
    annotations = {i: random_annotations(rng, i) for i in image_ids}
    assert any(a["iscrowd"] for anns in annotations.values() for a in anns)
    dataset = write_dataset(tmp_path, [a for anns in annotations.values() for a in anns], image_ids)
    evaluator = CocoEvaluator(dataset, tmp_path / "results", 100)
    for i in image_ids:
        evaluator.process([sample(i)], [random_detections(rng, annotations[i])])
    return dataset, evaluator, evaluator.result()


def test_the_figures_are_those_of_pycocotools(evaluated) -> None:
    dataset, evaluator, result = evaluated
    results = json.loads((evaluator.output_dir / "coco_instances_results.json").read_text())
    assert list(result) == list(evaluator.metrics)
    for kind in ("bbox", "segm"):
        run = official(dataset.json_path, results, kind, [1, 10, 100])
        run.summarize()
        theirs = [100 * v if v >= 0 else -1 for v in run.stats]
        ours = [result[f"{kind}/{name}"] for name in FIGURES]
        assert ours == pytest.approx(theirs, abs=1e-9)
        assert 0 < min(ours) and max(ours) < 100  # the case tests every figure


def test_the_ap_of_each_class_is_that_of_pycocotools(evaluated) -> None:
    dataset, evaluator, result = evaluated
    results = json.loads((evaluator.output_dir / "coco_instances_results.json").read_text())
    for kind in ("bbox", "segm"):
        precision = official(dataset.json_path, results, kind, [1, 10, 100]).eval["precision"]
        for label, name in enumerate(dataset.class_names):
            theirs = precision[:, :, label, 0, -1].mean()
            assert result[f"{kind}/AP-{name}"] == pytest.approx(100 * theirs if theirs > -1 else -1)
    assert result["bbox/AP-toothbrush"] == result["segm/AP-toothbrush"] == -1  # no ground truth


def test_the_figures_file_has_what_pycocotools_accumulates(evaluated) -> None:
    dataset, evaluator, result = evaluated
    results = json.loads((evaluator.output_dir / "coco_instances_results.json").read_text())
    content = json.loads((evaluator.output_dir / "coco_figures.json").read_text())
    assert content["images"] == len(dataset) and content["classes"] == list(dataset.class_names)
    assert sum(content["objects"]) == dataset.num_objects.sum()
    for kind in ("bbox", "segm"):
        found, theirs = content["kinds"][kind], official(dataset.json_path, results, kind, [1, 10, 100]).eval
        assert found["figures"] == {name: result[f"{kind}/{name}"] for name in FIGURES}
        precision, recall = theirs["precision"][..., -1], theirs["recall"][..., -1]  # (T, R, K, A), (T, K, A)
        parts = [precision[..., 0], precision[:1, ..., 0], precision[5:6, ..., 0]]
        parts += [precision[..., area] for area in (1, 2, 3)] + [recall[..., 0]]
        assert found["by_class"]["columns"] == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR"]
        for k, row in enumerate(found["by_class"]["rows"]):
            values = [part[:, k] if part.ndim == 2 else part[:, :, k] for part in parts]
            known = [value[value > -1] for value in values]
            assert row == pytest.approx([100 * v.mean() if len(v) else -1 for v in known], abs=1e-9)
        for name, curve in (("0.50", precision[0]), ("0.75", precision[5]), ("mean", precision.mean(axis=0))):
            for k, values in enumerate(found["precision"][name]):
                assert values is None if k == 3 else values == pytest.approx(curve[:, k, 0], abs=1e-5)  # toothbrush


def test_two_classes_of_one_name_have_a_figure_each(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 50, 50)], [1])
    content = json.loads((tmp_path / "instances.json").read_text())
    content["categories"][2]["name"] = "cat"
    (tmp_path / "instances.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "instances.json", tmp_path)
    evaluator = CocoEvaluator(dataset, None, 100)
    evaluator.process([sample(1)], [boxes_only((0, 0, 50, 50, 0.9))])
    result = evaluator.result()
    assert result["bbox/AP-cat"] == pytest.approx(100) and result["bbox/AP-cat (18)"] == -1
    assert [line.split()[0] for line in evaluator.table().splitlines()[4:]] == ["cat", "dog", "cat", "toothbrush"]


def test_the_figures_from_records_are_those_from_the_file(evaluated, tmp_path: Path) -> None:
    dataset, _, expected = evaluated
    copy = Dataset.from_records(
        iter(dataset), class_names=dataset.class_names, category_ids=dataset.category_ids, name="copy"
    )
    evaluator = CocoEvaluator(copy, None, 100)
    rng = np.random.default_rng(5)
    image_ids = [int(i) for i in rng.permutation(1000)[:14]]
    annotations = {i: random_annotations(rng, i) for i in image_ids}
    for i in image_ids:
        evaluator.process([sample(i)], [random_detections(rng, annotations[i])])
    assert evaluator.result() == pytest.approx(expected, abs=0.05)  # coordinates were rounded to float32


def test_the_area_of_a_detected_mask_is_its_own(tmp_path: Path) -> None:
    """A thin object in a large box is small: with the area of the box, the false one below would count among large."""
    annotation = box_annotation(10, 10, 150, 150) | {
        "segmentation": [[10.0, 10, 15, 10, 160, 155, 160, 160, 155, 160, 10, 15]],
        "area": 1000.0,
    }
    other = box_annotation(10, 10, 100, 100, image_id=2) | {"segmentation": [[10.0, 10, 110, 10, 110, 110, 10, 110]]}
    dataset = write_dataset(tmp_path, [annotation, other], [1, 2])
    evaluator = CocoEvaluator(dataset, None, 100)
    thin = torch.zeros(1, 28, 28)
    thin[0, 20] = 1
    false_one = Detections(torch.tensor([[0.0, 0, 200, 200]]), torch.tensor([0.9]), torch.tensor([0]), SIZE, masks=thin)
    true_one = Detections(
        torch.tensor([[10.0, 10, 110, 110]]), torch.tensor([0.8]), torch.tensor([0]), SIZE, masks=torch.ones(1, 28, 28)
    )
    evaluator.process([sample(1), sample(2)], [false_one, true_one])
    assert evaluator.result()["segm/APl"] == pytest.approx(100)


def test_average_precision_by_hand(tmp_path: Path) -> None:
    """Two objects. The better detection is exact, the other has IoU 0.62: right at 0.50, 0.55 and 0.60.

    At those three, precision is 1 at every recall; at the other seven it is 1 up to recall 0.5, which is 51 of the 101
    recall values, and 0 beyond.
    """
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 100, 100), box_annotation(110, 110, 100, 100)], [1])
    evaluator = CocoEvaluator(dataset, None, 100)
    evaluator.process([sample(1)], [boxes_only((0, 0, 100, 100, 0.9), (110, 110, 172, 210, 0.8))])
    result = evaluator.result()
    of_classes = [f"AP-{name}" for name in CATEGORIES.values()]
    assert evaluator.metrics == tuple(f"bbox/{name}" for name in FIGURES + of_classes)  # the data have no masks
    assert result["bbox/AP-cat"] == result["bbox/AP"] and result["bbox/AP-dog"] == -1
    assert result["bbox/AP"] == pytest.approx(100 * (3 + 7 * 51 / 101) / 10)
    assert result["bbox/AP50"] == pytest.approx(100)
    assert result["bbox/AP75"] == pytest.approx(100 * 51 / 101)
    assert result["bbox/AR@1"] == pytest.approx(50)
    assert result["bbox/AR@100"] == pytest.approx(100 * (3 * 1 + 7 * 0.5) / 10)
    assert result["bbox/APl"] == result["bbox/AP"] and result["bbox/APs"] == -1


def test_an_annotation_with_the_id_0_counts(tmp_path: Path) -> None:
    """pycocotools takes its id for "not matched", and so does not count what was found."""
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 100, 100)], [1], first_id=0)
    evaluator = CocoEvaluator(dataset, None, 100)
    evaluator.process([sample(1)], [boxes_only((0, 0, 100, 100, 0.9))])
    assert evaluator.result()["bbox/AP"] == pytest.approx(100)


def test_a_detection_in_a_crowd_region_is_not_wrong(tmp_path: Path) -> None:
    crowd = box_annotation(100, 100, 100, 100) | {"iscrowd": 1}
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 50, 50), crowd], [1])
    evaluator = CocoEvaluator(dataset, None, 100)
    evaluator.process([sample(1)], [boxes_only((120, 120, 140, 140, 0.9), (0, 0, 50, 50, 0.8))])
    assert evaluator.result()["bbox/AP"] == pytest.approx(100)


@pytest.mark.parametrize(("limit", "found"), [(100, 100), (300, 120)])
def test_more_than_100_objects_in_an_image(tmp_path: Path, limit: int, found: int) -> None:
    corners = [(x * 12.0, y * 12.0) for x in range(12) for y in range(10)]
    dataset = write_dataset(tmp_path, [box_annotation(x, y, 10, 10) for x, y in corners], [1])
    evaluator = CocoEvaluator(dataset, tmp_path, limit)
    evaluator.process([sample(1)], [boxes_only(*((x, y, x + 10, y + 10, 0.9) for x, y in corners))])
    result = evaluator.result()
    assert result[f"bbox/AR@{limit}"] == pytest.approx(100 * found / 120)
    assert result["bbox/AR@10"] == pytest.approx(100 * 10 / 120)
    assert (result["bbox/AP"] == pytest.approx(100)) == (limit > 100)
    run = official(
        dataset.json_path, json.loads((tmp_path / "coco_instances_results.json").read_text()), "bbox", [1, 10, limit]
    )
    precision = run.eval["precision"][..., 0, -1]  # its summary would be -1: it looks for a limit of 100 alone
    assert result["bbox/AP"] == pytest.approx(100 * precision[precision > -1].mean())


@pytest.mark.parametrize(("limit", "names"), [(1, ["AR@1"]), (5, ["AR@1", "AR@5"]), (10, ["AR@1", "AR@10"])])
def test_fewer_detections_per_image(tmp_path: Path, limit: int, names: list[str]) -> None:
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 50, 50)], [1])
    evaluator = CocoEvaluator(dataset, None, limit)
    evaluator.process([sample(1)], [boxes_only((0, 0, 50, 50, 0.9))])
    result = evaluator.result()
    assert [name.removeprefix("bbox/") for name in result if "@" in name] == names
    assert result["bbox/AP"] == pytest.approx(100)


def test_without_detections_ap_is_zero_and_the_log_says_why(tmp_path: Path, caplog) -> None:
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 50, 50)], [1])
    evaluator = CocoEvaluator(dataset, tmp_path, 100)
    with caplog.at_level(logging.WARNING):
        evaluator.process([sample(1)], [Detections.empty(SIZE)])
        result = evaluator.result()
    assert result["bbox/AP"] == result["bbox/AR@100"] == 0
    assert "not one detection in 1 images, so every AP is 0" in caplog.text
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_without_ground_truth_figures_are_minus_one_and_the_log_says_why(tmp_path: Path, caplog) -> None:
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 50, 50) | {"iscrowd": 1}], [1])
    evaluator = CocoEvaluator(dataset, None, 100)
    with caplog.at_level(logging.WARNING):
        evaluator.process([sample(1)], [boxes_only((0, 0, 50, 50, 0.9))])
        assert set(evaluator.result().values()) == {-1.0}
    assert "has no objects (1 crowd regions), so every figure is -1" in caplog.text


def test_missing_sizes_and_wrong_categories_are_explained(tmp_path: Path, caplog) -> None:
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 50, 50)], [1])
    evaluator = CocoEvaluator(dataset, None, 100)
    with caplog.at_level(logging.WARNING):
        evaluator.process([sample(1)], [boxes_only((0, 0, 50, 50, 0.9), label=1)])
        assert evaluator.result()["bbox/AP50"] == 0
    assert "no small, large objects, so bbox/APs, bbox/APl, bbox/ARs, bbox/ARl are -1" in caplog.text
    assert "they name categories [7], the ground truth [3]" in caplog.text


def test_images_that_were_not_evaluated_are_mentioned(tmp_path: Path, caplog) -> None:
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 50, 50)], [1, 2])
    evaluator = CocoEvaluator(dataset, None, 100)
    with caplog.at_level(logging.WARNING):
        evaluator.process([sample(1)], [boxes_only((0, 0, 50, 50, 0.9))])
        evaluator.result()
    assert "1 of 2 images were evaluated" in caplog.text


def test_a_model_without_masks_on_data_with_masks(tmp_path: Path, caplog) -> None:
    annotation = box_annotation(0, 0, 50, 50) | {"segmentation": [[0.0, 0, 50, 0, 50, 50, 0, 50]]}
    dataset = write_dataset(tmp_path, [annotation], [1])
    evaluator = CocoEvaluator(dataset, None, 100)
    with caplog.at_level(logging.WARNING):
        evaluator.process([sample(1)], [boxes_only((0, 0, 50, 50, 0.9))])
        result = evaluator.result()
    assert result["bbox/AP"] == pytest.approx(100) and result["segm/AP"] == -1
    assert list(result) == list(evaluator.metrics)
    assert "the detections have no masks" in caplog.text
    assert {result[f"segm/{name}"] for name in FIGURES} == {result["segm/AP-cat"]} == {-1.0}
    boxes_alone = CocoEvaluator(dataset, None, 100, masks=False)
    assert boxes_alone.metrics == tuple(name for name in evaluator.metrics if name.startswith("bbox/"))


def test_it_starts_afresh_after_a_result(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 50, 50)], [1])
    evaluator = CocoEvaluator(dataset, None, 100)
    evaluator.process([sample(1)], [boxes_only((0, 0, 50, 50, 0.9))])
    assert evaluator.result()["bbox/AP"] == pytest.approx(100)
    evaluator.process([sample(1)], [Detections.empty(SIZE)])
    assert evaluator.result()["bbox/AP"] == 0


def test_the_table_has_every_category(evaluated) -> None:
    dataset, evaluator, result = evaluated
    lines = evaluator.table().splitlines()
    assert lines[0].split() == FIGURES
    assert lines[1].split()[:2] == ["box", f"{result['bbox/AP']:.1f}"]
    assert lines[2].split()[:2] == ["mask", f"{result['segm/AP']:.1f}"]
    rows = [line.split() for line in lines[5:]]
    assert [row[0] for row in rows] == list(dataset.class_names)
    assert rows[3] == ["toothbrush", "0", "-", "-"]  # no ground truth
    assert sum(int(row[1]) for row in rows) == dataset.num_objects.sum()
    means = [np.mean([float(row[column]) for row in rows[:3]]) for column in (2, 3)]
    assert means == pytest.approx([result["bbox/AP"], result["segm/AP"]], abs=0.06)


def test_a_full_disk_costs_the_file_and_not_the_figures(tmp_path: Path, monkeypatch, caplog) -> None:
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 50, 50)], [1])
    evaluator = CocoEvaluator(dataset, tmp_path / "results", 100)
    evaluator.process([sample(1)], [boxes_only((0, 0, 50, 50, 0.9))])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "coco_figures.json").write_text("of an earlier evaluation")
    monkeypatch.setattr(Path, "write_text", full)
    assert evaluator.result()["bbox/AP"] == pytest.approx(100)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    for line, name in zip(errors, ("coco_instances_results.json", "coco_figures.json"), strict=True):
        assert f"{name} could not be written: [Errno 28] No space left" in line
    assert not list((tmp_path / "results").iterdir())


def test_wrong_images_are_errors(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, [box_annotation(0, 0, 5, 5)], [1])
    with pytest.raises(ValueError, match="image id 2 is not in the data set 'instances'"):
        CocoEvaluator(dataset, None, 100).process([sample(2)], [Detections.empty(SIZE)])
    with pytest.raises(ValueError, match=r"1 image ids occur more than once \(the first: 1\)"):
        CocoEvaluator(concatenate([dataset, dataset]), None, 100)
    with pytest.raises(ValueError, match="at least 1"):
        CocoEvaluator(dataset, None, 0)


def test_a_data_set_made_in_python(tmp_path: Path) -> None:
    bitmap = np.zeros(SIZE, np.uint8, order="F")
    bitmap[20:60, 30:90] = 1
    rle = coco_mask.encode(bitmap)
    objects = [
        ObjectRecord(
            id=0,
            box=np.array([30, 20, 90, 60], np.float32),
            label=0,
            crowd=False,
            area=2400.0,
            segmentation={"size": list(SIZE), "counts": rle["counts"].decode()},
        )
    ]
    record = ImageRecord(image_id=4, path=tmp_path / "4.png", size=SIZE, objects=objects)
    dataset = Dataset.from_records([record], class_names=["cell"], category_ids=[1], name="cells")
    evaluator = CocoEvaluator(dataset, None, 100)
    found = Detections(
        torch.tensor([[30.0, 20, 90, 60]]), torch.tensor([0.7]), torch.tensor([0]), SIZE, masks=torch.ones(1, 28, 28)
    )
    evaluator.process([sample(4)], [found])
    result = evaluator.result()
    assert result["bbox/AP"] == pytest.approx(100) and result["segm/AP50"] == pytest.approx(100)


def test_it_is_registered() -> None:
    assert EVALUATORS.get("coco") is CocoEvaluator


def test_the_ground_truth_of_repaired_data_is_what_was_read(tmp_path: Path) -> None:
    annotation = box_annotation(10, 20, 30, 40) | {"segmentation": [[10.0, 20, 40, 20, 40, 60, 10, 60]]}
    write_dataset(tmp_path, [annotation], [1])
    content = json.loads((tmp_path / "instances.json").read_text())
    content["annotations"][0]["bbox"] = [10, 20, -30]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "instances.json", tmp_path, policy="repair")
    (found,) = coco.ground_truth(dataset)["annotations"]
    assert found["bbox"] == [10, 20, 30, 40]
