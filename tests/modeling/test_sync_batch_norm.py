"""Against torch's batch norm on the batches of all processes put together."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from processes import in_processes
from torch import nn

from maskrcnn.modeling.sync_batch_norm import SyncBatchNorm2d, _Normalise, global_statistics

pytestmark = pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")

CHANNELS = 5
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
# What each process has: images, height, width.
SIZES = {
    "two equal": [(2, 4, 3), (2, 4, 3)],
    "two uneven": [(3, 7, 5), (1, 2, 9)],
    "three, one of one pixel": [(1, 6, 5), (2, 3, 8), (1, 1, 1)],
    "three, one empty": [(2, 4, 5), (0, 4, 5), (1, 9, 2)],
}


def make_norm(cls, dtype):
    norm = cls(CHANNELS)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        norm.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return norm.to(dtype)


def make_inputs(sizes, dtype, memory_format, offset=3.0, step=0):
    """Maps of each process, and factors that make every output matter differently."""
    generator = torch.Generator().manual_seed(1 + step)
    inputs = []
    for rank, (count, height, width) in enumerate(sizes):
        shape = (count, CHANNELS, height, width)
        x, factor = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        x = x * (1 + rank) + offset * rank  # the processes' means and variances are far apart
        inputs.append((x.to(dtype).contiguous(memory_format=memory_format), factor.to(dtype)))
    return inputs


def two_steps(norm, inputs_of_steps):
    """Output and gradient of x of the last step; gradients and buffers of the norm after all."""
    for x, factor in inputs_of_steps:
        x = x.clone().requires_grad_()
        out = norm(x)
        (out * factor).sum().backward()
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    return {"out": out.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad, "state": state}


def train_in_process(rank, sizes, dtype, memory_format):
    inputs = [make_inputs(sizes, dtype, memory_format, step=step)[rank] for step in range(2)]
    found = two_steps(make_norm(SyncBatchNorm2d, dtype), inputs)
    return found | {"layout": found["out"].is_contiguous(memory_format=memory_format)}


def flat(tensors):
    """(N, C, H, W) of several sizes -> (1, C, all their pixels, 1)."""
    return torch.cat([t.transpose(0, 1).flatten(1) for t in tensors], dim=1)[None, :, :, None]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_it_is_batch_norm_of_all_batches_together(sizes, dtype, memory_format):
    found = in_processes(len(sizes), train_in_process, sizes, dtype, memory_format)
    steps = [make_inputs(sizes, torch.float64, memory_format, step=step) for step in range(2)]
    together = [tuple(map(flat, zip(*inputs, strict=True))) for inputs in steps]
    expected = two_steps(make_norm(nn.BatchNorm2d, torch.float64), together)
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    assert all(one["layout"] for one in found)
    for key in ("out", "x"):
        torch.testing.assert_close(flat([one[key] for one in found]).double(), expected[key], **near)
    for key in ("weight", "bias"):
        torch.testing.assert_close(sum(one[key] for one in found).double(), expected[key], **near)
    for one in found:
        assert one["state"].keys() == expected["state"].keys() and one["state"]["num_batches_tracked"] == 2
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(one["state"][name].double(), expected["state"][name], **near)


def far_from_zero_in_process(rank, dtype, autocast):
    x = make_inputs([(2, 40, 30), (1, 50, 20)], torch.float64, torch.channels_last, offset=0.0)[rank][0] * 0.1 + 100
    norm = make_norm(SyncBatchNorm2d, torch.float32)
    with torch.autocast("cpu", enabled=autocast):
        out = norm(x.to(dtype))
    return {"x": x.to(dtype), "out": out, "var": norm.running_var}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_variance_keeps_its_digits_far_from_zero(dtype):
    found = in_processes(2, far_from_zero_in_process, dtype, dtype == torch.bfloat16)
    x = flat([one["x"].double() for one in found])[0, :, :, 0]
    for one in found:
        torch.testing.assert_close(one["var"].double(), 0.9 + 0.1 * x.var(dim=1), rtol=1e-6, atol=0)
        assert one["out"].dtype == dtype


def nothing_anywhere_in_process(rank):
    norm = SyncBatchNorm2d(CHANNELS)
    x = torch.zeros(0, CHANNELS, 4, 4, requires_grad=True)
    norm(x).sum().backward()
    return {"x": x.grad, "weight": norm.weight.grad, "state": dict(norm.state_dict())}


def test_no_pixel_in_any_process_moves_nothing():
    for one in in_processes(2, nothing_anywhere_in_process):
        assert one["x"].shape == (0, CHANNELS, 4, 4) and torch.equal(one["weight"], torch.zeros(CHANNELS))
        assert torch.equal(one["state"]["running_mean"], torch.zeros(CHANNELS))
        assert torch.equal(one["state"]["running_var"], torch.ones(CHANNELS))


def gradcheck_in_process(rank):
    """Both processes move the same element of the same input, so that the numeric gradient is the sum of theirs."""
    norm = make_norm(SyncBatchNorm2d, torch.float64)
    x = make_inputs([(2, 2, 3)], torch.float64, torch.contiguous_format)[0][0].requires_grad_()

    def normalise(x, weight, bias):
        return _Normalise.apply(x, weight, bias, *global_statistics(x, dtype=x.dtype), norm.eps)

    return torch.autograd.gradcheck(normalise, (x, norm.weight, norm.bias))


def test_gradients_by_differences():
    assert in_processes(2, gradcheck_in_process) == [True, True]


def evaluate_in_process(rank):
    """One process evaluates alone: nobody waits for another one."""
    norm = make_norm(SyncBatchNorm2d, torch.float32).eval()
    x = make_inputs([(1, 4, 4)], torch.float32, torch.contiguous_format)[0][0]
    out = norm(x) if rank == 0 else None
    dist.barrier()
    return out


def test_evaluation_is_batch_norms_and_each_process_its_own():
    out, nothing = in_processes(2, evaluate_in_process)
    x = make_inputs([(1, 4, 4)], torch.float32, torch.contiguous_format)[0][0]
    assert nothing is None and torch.equal(out, make_norm(nn.BatchNorm2d, torch.float32).eval()(x))


def test_one_process_is_batch_norm():
    inputs = make_inputs([(2, 4, 3)], torch.float32, torch.channels_last) * 2
    norm, peer = make_norm(SyncBatchNorm2d, torch.float32), make_norm(nn.BatchNorm2d, torch.float32)
    peer.load_state_dict(copy.deepcopy(norm).state_dict())
    found, expected = two_steps(norm, inputs), two_steps(peer, inputs)
    assert all(torch.equal(found[key], expected[key]) for key in ("out", "x", "weight", "bias"))
    assert all(torch.equal(found["state"][name], value) for name, value in expected["state"].items())


def compiled_in_process(rank, compiled):
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), SyncBatchNorm2d(CHANNELS), nn.ReLU())
    if compiled:
        block.compile(dynamic=True, backend="eager")
    (block(torch.full((1 + rank, 3, 6, 6), 0.5).cumsum(dim=2)) ** 2).sum().backward()
    return [p.grad for p in block.parameters()] + [block[1].running_var]


def test_a_compiled_part_goes_round_it():
    for found, expected in zip(
        in_processes(2, compiled_in_process, True), in_processes(2, compiled_in_process, False), strict=True
    ):
        torch.testing.assert_close(found, expected)
