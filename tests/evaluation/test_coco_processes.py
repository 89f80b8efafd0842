"""COCO's figures by several processes are those of one, whatever images each of them had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from processes import in_processes

from maskrcnn.data.datasets import read_coco
from maskrcnn.data.records import Dataset
from maskrcnn.evaluation import coco
from maskrcnn.evaluation.coco import RESULTS_FILE, CocoEvaluator
from maskrcnn.structures import Detections, Sample

pytestmark = pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")

SIZE = (60, 80)
IMAGE_IDS = (30, 4, 17, 200, 5)


def write_data(folder: Path, count: int) -> Dataset:
    """`count` images with an object each."""
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 3, "name": "cell"}, {"id": 7, "name": "dog"}]
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(IMAGE_IDS[:count]):
        x, y, w, h = 5 + 3 * i, 4 + i, 20 + 5 * i, 30
        (folder / f"{image}.png").touch()
        content["images"].append({"id": image, "file_name": f"{image}.png", "height": SIZE[0], "width": SIZE[1]})
        content["annotations"].append(
            {
                "id": i + 1,
                "image_id": image,
                "category_id": (3, 7)[i % 2],
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
        )
    (folder / "truth.json").write_text(json.dumps(content))
    return read_coco(folder / "truth.json", folder)


def detections(image_id: int) -> Detections:
    """The same ones whenever that image is evaluated: near its object, and wrong ones."""
    generator = torch.Generator().manual_seed(image_id)
    i = IMAGE_IDS.index(image_id)
    box = torch.tensor([5.0 + 3 * i, 4.0 + i, 25.0 + 8 * i, 34.0 + i])
    noise = torch.randn(6, 4, generator=generator) * torch.tensor([0.5, 1, 2, 4, 8, 12])[:, None]
    return Detections(
        boxes=(box + noise).clamp(0, 58),
        scores=torch.rand(6, generator=generator),
        labels=torch.tensor([i % 2] * 5 + [1 - i % 2]),
        size=SIZE,
        masks=torch.rand(6, 14, 14, generator=generator) * 0.6 + 0.3,
    )


def process(evaluator: CocoEvaluator, image_ids: list[int]) -> None:
    for image_id in image_ids:
        sample = Sample(image=torch.zeros(3, 4, 4, dtype=torch.uint8), image_id=image_id, original_size=SIZE)
        evaluator.process([sample], [detections(image_id)])


def evaluate_share(
    number: int, folder: Path, shares: list[list[int]], output: Path | None
) -> tuple[int, dict[str, float], str] | tuple[int, str]:
    evaluator = CocoEvaluator(read_coco(folder / "truth.json", folder), output, 100)
    process(evaluator, shares[number])
    try:
        return number, evaluator.result(), evaluator.table()
    except Exception as error:
        return number, repr(error)


@pytest.mark.parametrize(
    "shares",
    [
        [[30, 17, 5], [4, 200]],
        [[30, 200], [4, 5], [17]],
        [[], [30, 4, 17, 200, 5], []],
        [[30, 17], [4, 200, 17], [5, 30, 5]],
        [[4], [30], []],
    ],
    ids=["two", "three", "only one has images", "images evaluated twice", "more processes than images"],
)
def test_figures_and_file_are_those_of_one_process(tmp_path: Path, shares: list[list[int]]) -> None:
    images = {image for share in shares for image in share}
    dataset = write_data(tmp_path / "data", len(images))
    alone = CocoEvaluator(dataset, tmp_path / "alone", 100)
    process(alone, dataset.image_ids.tolist())
    expected = alone.result()
    assert 0 < expected["segm/AP"] < 100

    found = in_processes(len(shares), evaluate_share, tmp_path / "data", shares, tmp_path / "together")
    assert found == [(number, expected, alone.table()) for number in range(len(shares))]
    files = [(tmp_path / name / RESULTS_FILE).read_bytes() for name in ("alone", "together")]
    assert files[0] == files[1]
    assert [r["image_id"] for r in json.loads(files[0])] == [image for image in sorted(images) for _ in range(6)]


def test_a_failure_in_the_main_process_reaches_all(tmp_path: Path, monkeypatch) -> None:
    write_data(tmp_path, 3)

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("of the tool")

    monkeypatch.setattr(coco, "run_coco", broken)
    found = in_processes(3, evaluate_share, tmp_path, [[30], [4], [17]], None)
    failure = "RuntimeError('the main process failed: ZeroDivisionError: of the tool')"
    assert [text for _, text in found] == ["ZeroDivisionError('of the tool')", failure, failure]


def test_a_results_file_that_cannot_be_written_costs_no_process_its_figures(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "inside"
    (_, first, _), (_, second, _) = in_processes(2, evaluate_share, tmp_path, [[30], [4]], output)
    assert first == second and first["bbox/AP"] > 0
