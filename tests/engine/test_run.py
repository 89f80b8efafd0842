import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny_model
import torch
import yaml
from equality import identical
from tiny_model import CATEGORY_IDS, CLASS_NAMES, write_coco, write_config, write_detector_config

from maskrcnn import cli
from maskrcnn.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, trace_of_run
from maskrcnn.config import load_config
from maskrcnn.data import DatasetError
from maskrcnn.engine import run, writers
from maskrcnn.engine.checks import RunError
from maskrcnn.engine.hooks import NonFiniteLoss
from maskrcnn.engine.report.results import Evaluated
from maskrcnn.engine.trainer import Trainer
from maskrcnn.engine.writers.appended import AppendedFile
from maskrcnn.registry import WRITERS


def train(path, *overrides, resume=False):
    return run.train(load_config(path, overrides), resume=resume)


def interrupt_at(monkeypatch, iteration):
    step = Trainer.step

    def interrupted(self, i, max_iter):
        if i == iteration:
            raise KeyboardInterrupt
        return step(self, i, max_iter)

    monkeypatch.setattr(Trainer, "step", interrupted)


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Encoding its pictures would be most of these tests' time."""
    if request.node.name != "test_what_a_run_leaves":
        monkeypatch.setattr(writers.TensorBoard, "picture", writers.Writer.picture)


def test_what_a_run_leaves(tmp_path):
    results = train(write_config(tmp_path))
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir() if "tfevents" not in p.name} == {
        *("config.yaml", "log.txt", "metrics.json", "run.json", "report.html", "inference", "last_checkpoint"),
        *("model_0000003.pth", "model_0000007.pth", "model_final.pth"),
    }
    assert list(folder.glob("events.out.tfevents.*"))
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"

    config = load_config(folder / "config.yaml")
    assert config.MODEL.NUM_CLASSES == 3  # filled in from the annotation file

    content = torch.load(folder / "model_final.pth", weights_only=True)
    assert content["iteration"] == 7
    assert content["class_names"] == list(CLASS_NAMES) and content["category_ids"] == list(CATEGORY_IDS)
    assert yaml.safe_load(content["config"])["MODEL"]["NUM_CLASSES"] == 3
    assert content["model"]["predictor.weight"].shape == (3, 4, 1, 1)

    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "score/mean" in line] == [2, 5, 7]
    (training,) = (line for line in lines if "total_loss" in line)
    assert {"iteration", "loss_fit", "loss_size", "num_objects", "lr", "time", "data_time", "imgs_per_s"} <= set(
        training
    )
    assert training["total_loss"] == pytest.approx(training["loss_fit"] + training["loss_size"], rel=1e-4)
    assert training["lr"] == pytest.approx(0.001)  # after the step at 6
    assert results == {"score/mean": lines[-1]["score/mean"]}

    log = (folder / "log.txt").read_text()
    for part in ("environment:", "6 images", "of 3 classes", "parameters", "computing in float32 (as asked)", "linear"):
        assert part in log
    assert "eta: 0:00:00  iter: 7  total_loss: " in log


@pytest.mark.parametrize("workers", [0, 1])
def test_half_and_half_equals_the_whole_bit_for_bit(tmp_path, monkeypatch, workers):
    overrides = [f"DATALOADER.NUM_WORKERS={workers}"]
    train(write_config(tmp_path), *overrides, "OUTPUT_DIR", str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "config.yaml", *overrides)
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_latest.pth"  # of before an evaluation
    torch.rand(7)  # whatever happens in between
    train(tmp_path / "config.yaml", *overrides, resume=True)
    whole, halves = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("whole", "run"))
    for key in ("model", "optimizer", "rng", "iteration"):
        assert identical(halves[key], whole[key]), key
    metrics = [
        [json.loads(line) for line in (tmp_path / name / "metrics.json").read_text().splitlines()]
        for name in ("whole", "run")
    ]
    evaluations = [[(m["iteration"], m["score/mean"]) for m in lines if "score/mean" in m] for lines in metrics]
    assert evaluations[0] == evaluations[1]
    assert "resuming from" in (tmp_path / "run" / "log.txt").read_text()


def test_evaluation_does_not_change_the_training(tmp_path):
    train(write_config(tmp_path))
    train(tmp_path / "config.yaml", "TEST.EVAL_PERIOD=0", "OUTPUT_DIR", str(tmp_path / "other"))
    one, other = (load_checkpoint(tmp_path / name / "model_final.pth")["model"] for name in ("run", "other"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_seed_decides(tmp_path):
    write_config(tmp_path, TEST={"EVAL_PERIOD": 0})
    for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", -1)):
        train(tmp_path / "config.yaml", f"SEED={seed}", "OUTPUT_DIR", str(tmp_path / name))
    a, b, c, _ = (load_checkpoint(tmp_path / name / "model_final.pth")["model"] for name in "abcd")
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a["conv.weight"], c["conv.weight"])
    drawn = load_config(tmp_path / "d" / "config.yaml").SEED
    assert drawn >= 0 and load_checkpoint(tmp_path / "d" / "model_final.pth")["seed"] == drawn


def test_a_used_folder_is_refused(tmp_path):
    train(write_config(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    with pytest.raises(RunError, match=r"holds another run .*--resume"):
        train(tmp_path / "config.yaml")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}


def test_nothing_to_resume_is_said(tmp_path):
    train(write_config(tmp_path), resume=True)
    assert "nothing to resume in" in (tmp_path / "run" / "log.txt").read_text()
    assert (tmp_path / "run" / "model_final.pth").exists()


def test_a_finished_run_is_evaluated_and_a_longer_schedule_goes_on(tmp_path):
    first = train(write_config(tmp_path))
    assert train(tmp_path / "config.yaml", resume=True) == first
    assert "0 left of 8" in (tmp_path / "run" / "log.txt").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert lines[-1] == {"iteration": 7, **first}
    train(tmp_path / "config.yaml", "SOLVER.MAX_ITER=10", resume=True)
    assert load_checkpoint(tmp_path / "run" / "model_final.pth")["iteration"] == 9
    assert "changed since: SOLVER.MAX_ITER 8 -> 10" in (tmp_path / "run" / "log.txt").read_text()


def test_a_failed_start_leaves_a_folder_that_can_be_used(tmp_path):
    write_config(tmp_path)
    with pytest.raises(CheckpointError, match="no weights file"):
        train(tmp_path / "config.yaml", "MODEL.WEIGHTS", str(tmp_path / "nowhere.pth"))
    train(tmp_path / "config.yaml")


def test_divergence_names_the_place_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"iteration 5, .* the total loss is nan \(loss_fit nan, loss_size .*images \[1"
    ):
        train(write_config(tmp_path), "MODEL.DIVERGE_AT=5")
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000003.pth"
    assert "NonFiniteLoss" in (tmp_path / "run" / "log.txt").read_text()


def test_weights_start_another_run(tmp_path):
    train(write_config(tmp_path))
    final = tmp_path / "run" / "model_final.pth"
    train(tmp_path / "config.yaml", "MODEL.WEIGHTS", str(final), "OUTPUT_DIR", str(tmp_path / "b"), "SOLVER.BASE_LR=0")
    old, new = (load_checkpoint(path)["model"] for path in (final, tmp_path / "b" / "model_final.pth"))
    torch.testing.assert_close(old, new, rtol=0, atol=0)


def test_weights_of_another_architecture(tmp_path):
    train(write_config(tmp_path))
    final = str(tmp_path / "run" / "model_final.pth")
    for resume, output in ((False, "b"), (True, "run")):
        weights = [] if resume else ["MODEL.WEIGHTS", final]
        with pytest.raises(CheckpointError) as caught:
            train(
                tmp_path / "config.yaml",
                *weights,
                *("OUTPUT_DIR", str(tmp_path / output), "MODEL.CHANNELS=8"),
                resume=resume,
            )
        assert "conv.weight: (4, 3, 3, 3) in the weights, (8, 3, 3, 3) in the model" in str(caught.value)


def test_evaluation_takes_the_newest_checkpoint_or_what_it_is_told(tmp_path):
    trained = train(write_config(tmp_path))
    cfg = load_config(tmp_path / "config.yaml")
    assert run.test(cfg) == trained
    early = run.test(cfg, weights=[str(tmp_path / "run" / "model_0000003.pth")])
    assert early.keys() == trained.keys() and early != trained
    shutil.move(tmp_path / "run" / "model_final.pth", tmp_path / "elsewhere.pth")
    elsewhere = load_config(
        tmp_path / "config.yaml",
        ["MODEL.WEIGHTS", str(tmp_path / "elsewhere.pth"), "OUTPUT_DIR", str(tmp_path / "new")],
    )
    assert run.test(elsewhere) == trained


def test_an_evaluation_leaves_a_report(tmp_path):
    train(write_config(tmp_path))
    overrides = ["MODEL.WEIGHTS", str(tmp_path / "run" / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "new")]
    run.test(load_config(tmp_path / "config.yaml", [*overrides, "TEST.REPORT", "False"]))
    note, page = Evaluated.read(tmp_path / "new" / "inference"), tmp_path / "new" / "report.html"
    assert note.what == overrides[1] and note.seconds >= 0 and not page.exists()
    assert cli.main(["report", str(tmp_path / "new")]) == 0  # nothing was trained there, and yet it has a config
    config = tmp_path / "new" / "inference" / "config.yaml"
    assert f"maskrcnn train --eval-only --config {config} OUTPUT_DIR {tmp_path / 'new-again'}" in page.read_text()
    page.unlink()
    run.test(load_config(tmp_path / "config.yaml", overrides))
    assert page.exists()
    assert trace_of_run(tmp_path / "new") is None  # so that it can be trained in
    train(tmp_path / "config.yaml", *overrides[2:])


def test_an_evaluation_of_a_training_is_reported_with_its_own_config(tmp_path):
    train(write_config(tmp_path))
    folder = tmp_path / "run"
    run.test(load_config(tmp_path / "config.yaml", ["TEST.IMS_PER_BATCH", "3"]))
    made = [(folder / "report.html").read_text()]
    assert cli.main(["report", str(folder)]) == 0
    made.append((folder / "report.html").read_text())
    for page in made:
        assert '["TEST.IMS_PER_BATCH","3","the evaluation"]' in page
        assert f"--config {folder / 'config.yaml'} OUTPUT_DIR" in page  # what repeats the training
    assert load_config(folder / "config.yaml").TEST.IMS_PER_BATCH == 1


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(CheckpointError, match=r"no weights to evaluate: .*run holds no checkpoint"):
        run.test(load_config(write_config(tmp_path)))


def test_weights_of_a_part_are_not_evaluated(tmp_path):
    train(write_config(tmp_path))
    content = load_checkpoint(tmp_path / "run" / "model_final.pth")
    del content["model"]["predictor.bias"]
    save_checkpoint(tmp_path / "part.pth", content)
    with pytest.raises(CheckpointError, match=r"1 tensors of the model are not in the weights:\n  predictor\.bias"):
        run.test(load_config(tmp_path / "config.yaml"), weights=[str(tmp_path / "part.pth")])


def test_weights_of_other_classes_are_not_evaluated(tmp_path):
    train(write_config(tmp_path))
    content = load_checkpoint(tmp_path / "run" / "model_final.pth")
    save_checkpoint(tmp_path / "other.pth", {**content, "class_names": ["disc", "cross", "square"]})
    with pytest.raises(CheckpointError, match=r"other\.pth: weights of other classes, disc, cross, square; here they"):
        run.test(load_config(tmp_path / "config.yaml"), weights=[str(tmp_path / "other.pth")])


def test_weights_start_a_run_on_other_classes(tmp_path):
    cfg = load_config(write_detector_config(tmp_path))
    run.train(cfg)
    final = tmp_path / "run" / "model_final.pth"
    data = tmp_path / "data" / "annotations.json"
    content = json.loads(data.read_text())
    content["categories"][2] = {"id": 1, "name": "arrow"}  # instead of the cross, and now the first by its id
    for annotation in content["annotations"]:
        annotation["category_id"] = {9: 1}.get(annotation["category_id"], annotation["category_id"])
    data.write_text(json.dumps(content))
    overrides = ["MODEL.WEIGHTS", str(final), "OUTPUT_DIR", str(tmp_path / "tuned"), "SOLVER.BASE_LR", "0"]
    run.train(load_config(tmp_path / "config.yaml", overrides))
    old, new = (load_checkpoint(path)["model"] for path in (final, tmp_path / "tuned" / "model_final.pth"))
    head = "roi_heads.box_head.logits.bias"  # disc, square, cross, background -> arrow, disc, square, background
    assert torch.equal(new[head][1:], old[head][[0, 1, 3]]) and not torch.equal(new[head][0], old[head][2])
    head = "roi_heads.mask_head.predictor.weight"
    assert torch.equal(new[head][1:], old[head][:2])
    assert torch.equal(new["neck.lateral.res2.weight"], old["neck.lateral.res2.weight"])
    log = (tmp_path / "tuned" / "log.txt").read_text()
    assert "rows of 2 classes taken by name: disc, square; fresh rows for 1 classes that the weights" in log
    with pytest.raises(CheckpointError, match="other classes, disc, square, cross; here they are arrow, disc, square"):
        run.test(load_config(tmp_path / "config.yaml"), weights=[str(final)])


def test_two_test_sets_have_names_of_their_own(tmp_path):
    other = write_coco(tmp_path / "other", images=2, seed=1)
    files = {"JSON": str(other), "IMAGES": str(other.parent / "images")}
    own = {"JSON": str(tmp_path / "data" / "annotations.json"), "IMAGES": str(tmp_path / "data" / "images")}
    path = write_config(tmp_path, DATASETS={"TEST": [own, files]})
    results = train(path)
    assert len(results) == 2 and all(name.endswith("/score/mean") for name in results)


def test_training_and_test_data_of_other_classes(tmp_path):
    write_config(tmp_path)
    other = write_coco(tmp_path / "other", images=2)
    other.write_text(other.read_text().replace('"square"', '"ring"'))
    files = {"JSON": str(other), "IMAGES": str(other.parent / "images")}
    with pytest.raises(RunError, match=r"class 1 is 'square' in the one, 'ring' in the other"):
        train(write_config(tmp_path, DATASETS={"TEST": [files]}))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_image_is_one_error(tmp_path, workers):
    write_config(tmp_path)
    (tmp_path / "data" / "images" / "3.png").unlink()
    with pytest.raises(DatasetError, match=r"3\.png") as caught:
        train(tmp_path / "config.yaml", f"DATALOADER.NUM_WORKERS={workers}")
    assert "Traceback" not in str(caught.value)


def test_several_evaluators_of_one_metric(tmp_path):
    with pytest.raises(RunError, match=r"TEST\.EVALUATORS: two of them give the metric score/mean"):
        train(write_config(tmp_path), "TEST.EVALUATORS=[mean_score, mean_score]")


def test_bf16_trains(tmp_path):
    train(write_config(tmp_path), "SOLVER.AMP=bf16", "SOLVER.MAX_ITER=2", "SOLVER.STEPS=[]")
    assert "computing in bfloat16" in (tmp_path / "run" / "log.txt").read_text()


def test_a_batch_that_cannot_be_divided(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match=r"IMS_PER_BATCH is 2, .* 2 processes with 2 passes each .* a multiple of 4"):
        train(write_config(tmp_path), "SOLVER.ACCUMULATE=2")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_costs_neither_a_run_nor_a_line_of_its_metrics(tmp_path, monkeypatch, capsys):
    append = AppendedFile.append

    def append_where_there_is_room(self, record):
        place = self.path
        if b'"iteration": 2,' in record:
            self.path = Path("/dev/full")
        try:
            append(self, record)
        finally:
            self.path = place

    monkeypatch.setattr(AppendedFile, "append", append_where_there_is_room)
    train(write_config(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "score/mean" in line] == [2, 5, 7]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("JSONLines fails, the run goes on: [Errno 28] No space left on device") == 1
    assert log.count("JSONLines works again") == 1


def test_a_run_writes_to_the_writer_of_ones_own_that_it_names(tmp_path):
    (tmp_path / "own.py").write_text(
        "from maskrcnn.engine.writers import Writer\n"
        "from maskrcnn.registry import WRITERS\n"
        "@WRITERS.register('own')\n"
        "class Own(Writer):\n"
        "    def __init__(self, folder, start, config):\n"
        "        self.path, self.lines = folder / 'own', [f'from {start} to {config[\"SOLVER\"][\"MAX_ITER\"]}']\n"
        "    def write(self, iteration, values):\n"
        "        self.lines.append(f'{iteration} {\" \".join(values)}')\n"
        "    def close(self):\n"
        "        self.path.write_text('\\n'.join(self.lines))\n"
    )
    try:
        train(write_config(tmp_path), "WRITERS=[own]", f"IMPORTS=[{tiny_model.__file__}, {tmp_path / 'own.py'}]")
    finally:
        WRITERS._entries.pop("own", None)
        sys.modules.pop("own", None)
    first, *lines = (tmp_path / "run" / "own").read_text().splitlines()
    assert first == "from 0 to 8"
    assert [line for line in lines if "score" in line] == ["2 score/mean", "5 score/mean", "7 score/mean"]
    assert any(line.startswith("7 eta_seconds total_loss") for line in lines)
    assert not list((tmp_path / "run").glob("events*"))
