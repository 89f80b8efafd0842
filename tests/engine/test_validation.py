"""Losses on test data: by hand, and the same whatever the batches and processes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from processes import in_processes
from tiny_model import TinyModel, write_coco, write_config, write_detector_config
from torch import nn

from maskrcnn.config import load_config
from maskrcnn.data import InstanceMapper, ResizeShortestEdge, build_test_loader
from maskrcnn.data.datasets import read_coco
from maskrcnn.engine import checks, inputs, run
from maskrcnn.engine.evaluation import Evaluation
from maskrcnn.engine.precision import choose_precision
from maskrcnn.engine.state import rng_state
from maskrcnn.engine.validation import validation_losses
from maskrcnn.modeling import Model, build_model
from maskrcnn.structures import Instances, Sample


class Known(Model):
    """Losses that can be added up by hand: the image's id, and ten times the number of objects."""

    task = "instance"

    def __init__(self) -> None:
        super().__init__((0, 0, 0), (1, 1, 1))
        self.norm, self.frozen = nn.BatchNorm2d(3), nn.Dropout().eval()
        self.scale = nn.Parameter(torch.ones(()))

    def losses(self, batch):
        assert not any(module.training for module in self.modules()) and not torch.is_grad_enabled()
        self.norm(torch.stack([sample.image for sample in batch]).float())
        objects = torch.tensor([float(len(sample.targets)) for sample in batch])
        ids = torch.tensor([float(sample.image_id) for sample in batch])
        return {"loss_id": ids.mean() * self.scale, "loss_objects": 10 * objects.mean(), "num_objects": objects.mean()}


def sample(image_id, objects):
    boxes = torch.tensor([[1.0, 1.0, 4.0, 4.0]] * objects).reshape(-1, 4)
    targets = Instances(boxes, torch.zeros(objects, dtype=torch.int64), (6, 8))
    return Sample(torch.full((3, 6, 8), 200, dtype=torch.uint8), image_id, (6, 8), targets)


def test_means_over_images_by_hand():
    model = Known()
    means = validation_losses(model, [[sample(1, 2), sample(4, 0)], [sample(7, 1)]])
    assert means == {
        "val/total_loss": pytest.approx((1 + 4 + 7 + 20 + 0 + 10) / 3),
        "val/loss_id": pytest.approx(4),
        "val/loss_objects": pytest.approx(10),
        "val/num_objects": pytest.approx(1),  # logged, and no part of the total
    }
    assert list(means)[0] == "val/total_loss"
    assert model.training and model.norm.training and not model.frozen.training
    assert model.norm.num_batches_tracked == 0 and not model.norm.running_mean.any()


def test_no_order_of_the_images_changes_a_bit():
    samples = [sample(0.1 * 1.7**i, i) for i in range(40)]
    means = [validation_losses(Known(), [samples[i:] + samples[:i]]) for i in (0, 13, 31)]
    assert means[0] == means[1] == means[2]


def test_a_loss_that_is_not_finite_is_reported_as_it_is():
    model = Known()
    model.scale.data.fill_(math.inf)
    means = validation_losses(model, [[sample(1, 1)]])
    assert means["val/loss_id"] == means["val/total_loss"] == math.inf and means["val/loss_objects"] == 10
    model.scale.data.fill_(math.nan)
    assert math.isnan(validation_losses(model, [[sample(1, 1)]])["val/total_loss"])


def test_without_images_there_is_no_loss():
    (value,) = validation_losses(Known(), []).values()
    assert math.isnan(value)


def test_random_numbers_depend_on_the_image_alone_and_the_generators_are_left_as_they_were(tmp_path):
    json_path = write_coco(tmp_path / "data")
    dataset = read_coco(json_path, json_path.parent / "images")
    mapper = InstanceMapper([ResizeShortestEdge((32,), 64)], training=True)
    torch.manual_seed(0)
    model = TinyModel(3, 10, None)
    samples = [image for batch in build_test_loader(dataset, mapper, num_workers=0) for image in batch]
    before = rng_state()
    expected = validation_losses(model, [samples[:1], samples[1:3], samples[3:]])
    state = rng_state()
    assert torch.equal(state["torch"], before["torch"]) and state["python"] == before["python"]
    assert torch.equal(state["numpy"][1], before["numpy"][1])

    torch.rand(5), np.random.rand(5)
    assert validation_losses(model, [samples[::-1]]) == pytest.approx(expected, rel=1e-12)
    each = [validation_losses(model, [[one]])["val/loss_fit"] for one in samples]
    assert sum(each) / len(each) == pytest.approx(expected["val/loss_fit"], rel=1e-12)
    twin = Sample(samples[0].image, 999, samples[0].original_size, samples[0].targets)
    assert validation_losses(model, [[twin]])["val/loss_fit"] != each[0]  # the noise of another image


LOSSES_ALONE = ("TEST.LOSS", "True", "TEST.EVALUATORS", "()")


def evaluation_of(path, *overrides):
    """The evaluation of a config's model, with weights of seed 0."""
    cfg = load_config(path, overrides)
    test_sets = inputs.read_test_sets(cfg)
    cfg = checks.fill_in_classes(cfg, next(iter(test_sets.values())))
    torch.manual_seed(0)
    model = build_model(cfg)
    _, mapper = inputs.build_mappers(cfg, model.task)
    precision = choose_precision("TEST.AMP", "fp32", torch.device("cpu"))
    return Evaluation(cfg, model, test_sets, mapper, path.parent / "inference", precision)


def evaluate_share(number, path):
    return evaluation_of(path, *LOSSES_ALONE)()


@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")
def test_several_processes_find_the_losses_of_one(tmp_path):
    write_coco(tmp_path / "data", images=3)
    path = write_detector_config(tmp_path)
    expected = evaluation_of(path, *LOSSES_ALONE)()
    heads = ("loss_cls", "loss_box", "loss_mask")
    assert {f"val/{name}" for name in ("total_loss", "loss_rpn_cls", "loss_rpn_box", *heads)} <= set(expected)
    assert all(value > 0 for name, value in expected.items() if "loss" in name)
    for count in (2, 4):  # uneven shares, and one without images
        assert in_processes(count, evaluate_share, path) == [expected] * count


def test_images_without_objects_count_too(tmp_path):
    json_path = write_coco(tmp_path / "data", images=2)
    content = json.loads(json_path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 10]
    json_path.write_text(json.dumps(content))
    losses = evaluation_of(write_detector_config(tmp_path), *LOSSES_ALONE)()
    assert all(math.isfinite(value) for value in losses.values())
    content["images"] = content["images"][:1]
    json_path.write_text(json.dumps(content))
    alone = evaluation_of(tmp_path / "config.yaml", *LOSSES_ALONE)()
    assert losses["val/loss_mask"] == pytest.approx(alone["val/loss_mask"] / 2)  # no objects, no masks to learn


def test_training_reports_them_at_each_evaluation_and_is_not_changed_by_them(tmp_path):
    path = write_config(tmp_path)
    without = run.train(load_config(path, ["OUTPUT_DIR", str(tmp_path / "without")]))
    results = run.train(load_config(path, ["TEST.LOSS", "True"]))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "val/loss_fit" in line] == [2, 5, 7]
    assert results["val/total_loss"] == lines[-1]["val/total_loss"] > 0
    assert results["score/mean"] == without["score/mean"]
    assert run.test(load_config(path, ["TEST.LOSS", "True"])) == results


@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_a_model_made_ready_for_inference_has_the_same_losses(tmp_path, amp):
    path = write_detector_config(tmp_path)
    on = ["TEST.LOSS", "True", "TEST.AMP", amp]
    trained, tested = (
        {name: value for name, value in results.items() if name.startswith("val/")}
        for results in (run.train(load_config(path, on)), run.test(load_config(path, on)))
    )
    assert tested["val/loss_mask"] > 0
    assert tested == pytest.approx(trained, rel=1e-5 if amp == "fp32" else 0.02)


def test_names_are_known_before_and_begin_with_the_set_where_there_are_several(tmp_path):
    path = write_config(tmp_path)
    one = evaluation_of(path, *LOSSES_ALONE)
    assert one.wanted and one.metrics == ("val/total_loss",)
    files = dict(load_config(path).DATASETS.TEST[0])
    write_config(tmp_path, DATASETS={"TEST": [files, files]}, TEST={"EVALUATORS": ["coco"], "LOSS": True})
    both = evaluation_of(path)
    assert {"annotations/val/total_loss", "annotations_2/val/total_loss", "annotations/bbox/AP-disc"} <= set(
        both.metrics
    )
    assert len(both.metrics) == len(set(both.metrics)) == 2 * (2 * (12 + 3) + 1)
    results = both()
    of_losses = {f"{name}/val/{loss}" for name in both.test_sets for loss in ("loss_fit", "loss_size", "num_objects")}
    assert set(results) == set(both.metrics) | of_losses


def test_losses_of_what_the_data_do_not_have_are_refused_at_the_start(tmp_path):
    json_path = write_coco(tmp_path / "data")
    content = json.loads(json_path.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    json_path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="objects have no 'segmentation'"):
        evaluation_of(write_detector_config(tmp_path), *LOSSES_ALONE)
