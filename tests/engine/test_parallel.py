"""One step of several processes against what a single process computes from the same shards."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from processes import in_processes
from tiny_model import write_coco, write_config, write_detector_config
from torch.nn.parallel import DistributedDataParallel

from maskrcnn.checkpoint import load_checkpoint, newest_checkpoint
from maskrcnn.config import load_config
from maskrcnn.data import build_train_loader, dataset
from maskrcnn.distributed import any_rank, mean_over_ranks
from maskrcnn.engine import run
from maskrcnn.engine.inputs import build_mappers
from maskrcnn.engine.parts import parallel
from maskrcnn.engine.precision import Precision
from maskrcnn.engine.solver import build_optimizer
from maskrcnn.engine.state import seed_everything
from maskrcnn.engine.trainer import Hook, Trainer
from maskrcnn.modeling import build_model

pytestmark = pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")

FP32 = Precision("cpu", torch.float32, "test")


def detector(folder, *overrides):
    """A detector, and six samples, of which the first has no object."""
    cfg = load_config(folder / "config.yaml", ["MODEL.NUM_CLASSES=3", *overrides])
    torch.manual_seed(0)
    model = build_model(cfg)
    found = dataset(cfg.DATASETS.TRAIN[0], "", "error")
    mapper, _ = build_mappers(cfg, "instance")
    samples = [mapper(record, np.random.default_rng(i)) for i, record in enumerate(found)]
    samples[0] = replace(samples[0], targets=samples[0].targets[:0])
    return cfg, model, samples


def one_step(model, cfg, batches, accumulate=1):
    """The gradients of one step, and the weights after it."""
    optimizer = build_optimizer(model, cfg.SOLVER)
    wrapped = parallel(model, torch.device("cpu"))
    trainer = Trainer(
        *(wrapped, iter(batches), optimizer, lambda i: 0.01, [Hook()]),
        precision=FP32,
        scaler=FP32.scaler(),
        accumulate=accumulate,
    )
    wrapped.train()
    trainer.step(0, 1)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}, model.state_dict()


def in_one_of_several(number, folder, shards, seeds):
    cfg, model, samples = detector(folder)
    seed_everything(seeds[number])
    gradients, weights = one_step(model, cfg, [[samples[i] for i in shards[number]]])
    return {name: g.numpy() for name, g in gradients.items()}, {name: w.numpy() for name, w in weights.items()}


def averaged(folder, shards, seeds):
    """The mean of the gradients of each shard alone: plain autograd, no trainer."""
    _, model, samples = detector(folder)
    model.train()
    sums = None
    for shard, seed in zip(shards, seeds, strict=True):
        seed_everything(seed)
        model.zero_grad()
        sum(v for k, v in model.losses([samples[i] for i in shard]).items() if k.startswith("loss_")).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        sums = gradients if sums is None else {name: sums[name] + g for name, g in gradients.items()}
    return {name: g / len(shards) for name, g in sums.items()}


@pytest.fixture
def folder(tmp_path):
    write_coco(tmp_path / "data")
    write_detector_config(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shards", [[[1, 2], [3, 5]], [[0], [4]], [[1], [0], [5]]], ids=["2", "2 no objects", "3"])
def test_a_step_is_the_mean_of_the_shards_gradients(folder, shards):
    seeds = [11, 12, 13][: len(shards)]
    expected = averaged(folder, shards, seeds)
    assert any(g.abs().max() > 0 for name, g in expected.items() if "mask_head" in name)
    outcomes = in_processes(len(shards), in_one_of_several, folder, shards, seeds)
    for gradients, weights in outcomes:
        assert gradients.keys() == expected.keys()
        for name, g in expected.items():
            np.testing.assert_allclose(gradients[name], g.numpy(), rtol=1e-5, atol=1e-5, err_msg=name)
        for name, value in outcomes[0][1].items():
            np.testing.assert_array_equal(weights[name], value, err_msg=name)


def test_passes_of_one_process_are_the_same_step(folder):
    """The sampling draws from one generator, pass after pass: seeds and order as those of the passes."""
    shards = [[1, 2], [3, 5], [0]]
    cfg, model, samples = detector(folder)
    expected = averaged(folder, shards, [11, 12, 13])
    seeds = iter([11, 12, 13])
    losses = model.losses

    def seeded(batch):
        seed_everything(next(seeds))
        return losses(batch)

    model.losses = seeded
    gradients, _ = one_step(model, cfg, [[samples[i] for i in shard] for shard in shards], accumulate=3)
    for name, g in expected.items():
        torch.testing.assert_close(gradients[name], g, rtol=1e-5, atol=1e-5, msg=name)


def test_equal_passes_are_the_large_batch(folder):
    """Means over RoIs of a pass have equal weights in the large batch where the passes have equally many."""
    few = ["MODEL.PROPOSALS.SAMPLER.BATCH_SIZE_PER_IMAGE=100000", "MODEL.ROI_HEADS.SAMPLER.BATCH_SIZE_PER_IMAGE=100000"]
    results = []
    for batches in ([[4, 4]], [[4], [4]]):
        cfg, model, samples = detector(folder, *few)  # every anchor and proposal is taken: nothing is drawn
        results.append(one_step(model, cfg, [[samples[i] for i in b] for b in batches], accumulate=len(batches))[0])
    for name, g in results[0].items():
        torch.testing.assert_close(results[1][name], g, rtol=1e-4, atol=1e-6, msg=name)


def images_of(number, folder, passes):
    found = dataset(load_config(folder / "config.yaml", []).DATASETS.TRAIN[0], "", "error")
    mapper, _ = build_mappers(load_config(folder / "config.yaml", []), "instance")
    batches = build_train_loader(found, mapper, batch_size=4, num_workers=0, seed=3, passes=passes, start_iteration=1)
    return [[s.image_id for s in batch] for batch in itertools.islice(batches, 3 * passes)]


def test_a_step_has_the_same_images_for_any_number_of_processes_and_passes(folder):
    (whole,) = in_processes(1, images_of, folder, 1)
    for count, passes in ((1, 2), (2, 1), (4, 1), (2, 2), (1, 4)):
        shares = in_processes(count, images_of, folder, passes)
        for step, expected in enumerate(whole):
            own = [share[step * passes : (step + 1) * passes] for share in shares]
            assert sorted(i for share in own for batch in share for i in batch) == sorted(expected)
            # the share of pass p in process r is the one of process p * count + r among count * passes
            assert [own[r][p] for p in range(passes) for r in range(count)] == [
                expected[i :: count * passes] for i in range(count * passes)
            ]


def exchange(number):
    values = torch.tensor([number * 1.0, 5.0])
    asked = any_rank(number == 1)
    nobody = any_rank(False)
    return mean_over_ranks(values).tolist(), asked(), nobody(), values.tolist()


def test_exchanges():
    assert in_processes(3, exchange) == [([1.0, 5.0], True, False, [r * 1.0, 5.0]) for r in range(3)]
    assert mean_over_ranks(torch.ones(2)).tolist() == [1, 1] and any_rank(True)() and not any_rank(False)()


class Normed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.w = torch.nn.BatchNorm1d(1), torch.nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return {"loss_norm": (self.norm(torch.tensor(batch)[:, None]) * self.w).square().mean()}


def statistics(number):
    cfg = {"WEIGHT_DECAY": 0, "WEIGHT_DECAY_NORM": 0, "LR_FACTORS": (), "OPTIMIZER": "SGD", "BASE_LR": 0.1}
    model = Normed()
    optimizer = build_optimizer(model, {**cfg, "MOMENTUM": 0.9, "NESTEROV": False})
    wrapped = parallel(model, torch.device("cpu"))
    assert type(wrapped) is DistributedDataParallel
    batches = iter([[1.0, 2.0 + number], [3.0, 7.0 - number]])
    hooks = [Hook()]
    trainer = Trainer(wrapped, batches, optimizer, lambda i: 0.1, hooks, precision=FP32, scaler=FP32.scaler())
    trainer.train(0, 2)
    return model.norm.running_mean.item(), model.norm.running_var.item()


def test_statistics_of_batch_norms_are_the_main_processs_after_each_step():
    """Each evaluates its share, and takes its average, with what the checkpoint will hold."""
    mean, var = 0.0, 1.0
    for batch in ([1.0, 2.0], [3.0, 7.0]):
        mean, var = 0.9 * mean + 0.1 * np.mean(batch), 0.9 * var + 0.1 * np.var(batch, ddof=1)
    assert in_processes(2, statistics) == [pytest.approx((mean, var))] * 2


def trained(number, folder, *overrides):
    cfg = load_config(folder / "config.yaml", list(overrides))
    return run.train(cfg)


def test_a_run_of_two_processes(tmp_path):
    write_config(tmp_path)
    outcomes = in_processes(2, trained, tmp_path, "TEST.EVALUATORS=[coco]", "SOLVER.EMA=0.9", "SOLVER.ACCUMULATE=1")
    assert outcomes[0] == outcomes[1] and "bbox/AP" in outcomes[0]
    run_folder = tmp_path / "run"
    assert {"model_final.pth", "config.yaml", "metrics.json", "log.txt"} <= {p.name for p in run_folder.iterdir()}
    content = torch.load(run_folder / "model_final.pth", weights_only=True)
    assert len(content["rng"]) == 2
    assert not torch.equal(content["rng"][0]["torch"], content["rng"][1]["torch"])
    assert content["ema"].keys() == content["model"].keys()
    # evaluated again by one process alone
    cfg = load_config(run_folder / "config.yaml", [])
    assert run.test(cfg) == pytest.approx(outcomes[0])


def diverging(number, folder):
    cfg = load_config(folder / "config.yaml", ["MODEL.DIVERGE_ON=12", "SOLVER.MAX_ITER=40", "SOLVER.SKIP_NON_FINITE=3"])
    run.train(cfg)


def test_a_loss_that_is_not_finite_in_one_process_stops_all(tmp_path):
    write_config(tmp_path)
    errors = in_processes(2, diverging, tmp_path)
    assert {type(error).__name__ for error in errors} == {"NonFiniteLoss"}
    assert str(errors[0]) == str(errors[1])
    assert "images [12" in str(errors[0]) and "first not finite: the output of conv (Conv2d)" in str(errors[0])
    assert "Before it 3 such steps were left out" in str(errors[0])
    content = load_checkpoint(newest_checkpoint(tmp_path / "run"))
    assert content["skipped"] >= 1
    assert all(torch.isfinite(w).all() for w in content["model"].values())
