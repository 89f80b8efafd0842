"""Recomputed blocks against the same blocks that keep their activations."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.multiprocessing as mp
from processes import in_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from maskrcnn.modeling.backbones import ResNet
from maskrcnn.modeling.recompute import recompute_in_backward

forks = pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")


def make_backbones(norm="BN", freeze_at=0, depth=18):
    """A plain one, and one of the same weights whose blocks are recomputed."""
    torch.manual_seed(0)
    plain = ResNet(depth=depth, width=8, norm=norm, freeze_at=freeze_at).to(memory_format=torch.channels_last)
    recomputed = copy.deepcopy(plain)
    for block in recomputed.blocks():
        recompute_in_backward(block)
    return plain, recomputed


def images(seed=0, size=(64, 96)):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def step(backbone, x, context=nullcontext):
    with context():
        features = backbone(x)
    sum(value.float().square().mean() for value in features.values()).backward()
    return features


def assert_same_bits(plain, recomputed):
    for (name, p), (other, q) in zip(plain.named_parameters(), recomputed.named_parameters(), strict=True):
        assert name == other and (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name
    state = recomputed.state_dict()
    assert list(state) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("freeze_at", [0, 2])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "GN", "SyncBN"])
def test_gradients_and_running_statistics_are_the_same_bits(norm, freeze_at, autocast):
    plain, recomputed = make_backbones(norm, freeze_at)
    for seed in range(2):  # the second step starts from what the first one left in the buffers
        for backbone in (plain, recomputed):
            step(backbone, images(seed), lambda: torch.autocast("cpu", torch.bfloat16, enabled=autocast))
    assert_same_bits(plain, recomputed)
    for module in recomputed.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 2 and module.track_running_stats


def kept_bytes(backbone):
    """Of what autograd keeps until the backward pass, weights aside, each storage once."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no later tensor gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(images())
    weights = {value.untyped_storage().data_ptr() for value in backbone.state_dict().values()}
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in weights)


def test_only_the_inputs_of_blocks_are_kept():
    plain, recomputed = make_backbones(depth=50)
    inputs = []
    for block in plain.blocks():
        block.register_forward_pre_hook(lambda block, args: inputs.append(args[0].nbytes))
    everything = kept_bytes(plain)
    assert sum(inputs) < everything / 3
    assert kept_bytes(recomputed) == sum(inputs)


def test_without_gradients_nothing_changes():
    plain, recomputed = make_backbones()
    for mode in (True, False):
        plain.train(mode), recomputed.train(mode)
        with torch.no_grad():
            expected, found = plain(images()), recomputed(images())
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    step(plain.eval(), images()), step(recomputed.eval(), images())
    assert_same_bits(plain, recomputed)


def test_a_copy_runs_its_own_blocks():
    _, recomputed = make_backbones()
    twin = copy.deepcopy(recomputed)
    with torch.no_grad():
        for p in recomputed.parameters():
            p.zero_()
    assert twin(images())["res2"].abs().sum() > 0


def test_asking_twice_recomputes_once():
    calls = []

    class Block(nn.Linear):
        def forward(self, x):
            calls.append(torch.is_grad_enabled())
            return super().forward(x).sigmoid()

    block = Block(3, 3)
    recompute_in_backward(block)
    recompute_in_backward(block)
    block(torch.ones(1, 3)).sum().backward()
    assert len(calls) == 2


def test_a_compiled_backbone_is_recomputed_too():
    plain, _ = make_backbones()
    compiled = copy.deepcopy(plain)
    compiled.compile(dynamic=True, backend="aot_eager")
    for block in compiled.blocks():
        recompute_in_backward(block)
    for seed in range(2):
        step(plain, images(seed)), step(compiled, images(seed))
    for p, q in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5)
    for (name, p), (_, q) in zip(plain.named_buffers(), compiled.named_buffers(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-6, msg=name)
    assert kept_bytes(compiled) < kept_bytes(plain) / 3


def train_in_process(rank, recomputed):
    backbone = make_backbones("SyncBN", 1)[recomputed]
    step(DistributedDataParallel(backbone), images(rank, size=(64, 64 + 32 * rank)))
    return {name: p.grad for name, p in backbone.named_parameters()}, dict(backbone.state_dict())


@forks
def test_between_processes_with_synchronised_norms():
    expected, found = in_processes(2, train_in_process, 0), in_processes(2, train_in_process, 1)
    for (gradients, state), (other_gradients, other_state) in zip(expected, found, strict=True):
        for one, other in ((gradients, other_gradients), (state, other_state)):
            assert one.keys() == other.keys()
            for name, value in one.items():
                assert value is other[name] is None or torch.equal(value, other[name]), name
