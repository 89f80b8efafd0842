import json
from pathlib import Path

import pytest
from tiny_run import make_data, tiny_config

from maskrcnn.checkpoint import load_checkpoint
from maskrcnn.data import DatasetError
from maskrcnn.engine import run


def config(folder: Path, *more: str):
    short = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "[]", "SOLVER.IMS_PER_BATCH", "2", "DATASETS.TEST", "[]"]
    return tiny_config(folder, "OUTPUT_DIR", str(folder / "run"), *short, *more)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The data of `tiny_run`, with a mistake in each of its images."""
    path = make_data(tmp_path / "data")
    content = json.loads(path.read_text())
    first, second, third, _ = content["annotations"]
    first["segmentation"].append([1, 2, 3, 4])
    second.update(bbox=[float("nan")] * 4, iscrowd=None)
    content["annotations"].append({**third, "id": 1, "category_id": 77})
    content["images"].append({"id": 200, "file_name": "gone.png", "height": 40, "width": 40})
    path.write_text(json.dumps(content))
    return tmp_path


def test_training_goes_on_with_what_is_mended(damaged: Path) -> None:
    with pytest.raises(DatasetError, match="5 errors"):
        run.train(config(damaged))
    run.train(config(damaged, "DATASETS.PROBLEMS", "repair", "OUTPUT_DIR", str(damaged / "mended")))
    assert load_checkpoint(damaged / "mended" / "model_final.pth")["iteration"] == 1
    (changes,) = json.loads((damaged / "mended" / "data_problems.json").read_text()).values()
    assert [(c["where"], c["action"]) for c in changes] == [
        ("image 200", "dropped"),
        ("annotation 1", "dropped"),
        ("annotation 1", "changed"),
        ("annotation 2", "changed"),
    ]


def test_a_damaged_image_is_found_before_training(tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    (tmp_path / "data" / "1.png").write_bytes(b"\x89PNG")
    with pytest.raises(DatasetError, match=r"of 3 image files .* 1 cannot be trained on: .*1\.png"):
        run.train(config(tmp_path))


def test_shared_images_are_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data(tmp_path / "data")
    files = json.dumps({"JSON": str(tmp_path / "data" / "instances.json"), "IMAGES": str(tmp_path / "data")})
    run.train(config(tmp_path, "DATASETS.TEST", files, "TEST.EVALUATORS", "[]"))
    assert "3 of the 3 images of" in capsys.readouterr().out
