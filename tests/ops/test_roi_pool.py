import functools
import itertools
import math
from fractions import Fraction

import pytest
import torch
import torchvision

from maskrcnn.ops import reference, roi_pool
from maskrcnn.ops.extension import COMPILED
from ops import cuda_on_cpu

BOXES = {
    "inside": (1.3, 2.1, 9.7, 8.2),
    "whole map": (0, 0, 13, 15),
    "beyond the map": (-6, -4, 30, 30),
    "left of the map": (-30, 2, -20, 9),
    "no area": (5, 5, 5, 5),
    "inverted": (9, 11, 2, 3),
    "halves": (1, 3, 9, 7),  # 0.5, 1.5, 4.5, 3.5 once scaled
    "negative halves": (-1, -3, 5, 7),
    "at the last pixel": (12, 14, 13, 15),
    "large": (-50, -30, 70, 90),
}


class CudaOnCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, rois, scale, output_size, deterministic):
        out, argmax = cuda_on_cpu.operators().roi_pool(features, rois, scale, *output_size)
        last = features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()
        ctx.rest = scale, features.shape[0], *features.shape[2:], last, deterministic
        ctx.save_for_backward(argmax, rois)
        return out

    @staticmethod
    def backward(ctx, grad):
        grad = cuda_on_cpu.operators().roi_pool_backward(grad, *ctx.saved_tensors, *ctx.rest)
        return grad, None, None, None, None


def on_cpu_like_cuda(deterministic, features, rois, *, scale, output_size):
    return CudaOnCpu.apply(features, rois, scale, output_size, deterministic)


def on_cuda(features, rois, **options):
    return roi_pool(features.cuda(), rois.cuda(), **options).cpu()


IMPLEMENTATIONS = {
    "operator": roi_pool,
    "reference": reference.roi_pool,
    "cuda on cpu": functools.partial(on_cpu_like_cuda, False),
    "cuda on cpu, deterministic": functools.partial(on_cpu_like_cuda, True),
    "cuda": on_cuda,
}


@pytest.fixture(params=list(IMPLEMENTATIONS))
def pool(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return IMPLEMENTATIONS[request.param]


def pool_by_the_paper(features, rois, scale, output_size):
    """Fast R-CNN §2.1 pixel by pixel, in exact fractions; values and the pixel that each came from."""
    _, channels, height, width = features.shape
    out = torch.zeros(len(rois), channels, *output_size, dtype=features.dtype)
    source = torch.full(out.shape, -1)
    for r, (n, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(scale * b) + 0.5), b)) for b in box)
        bin_h = Fraction(max(y2 - y1 + 1, 1), output_size[0])
        bin_w = Fraction(max(x2 - x1 + 1, 1), output_size[1])
        for p, q, c in itertools.product(*map(range, output_size), range(channels)):
            rows = [y for y in range(y1 + math.floor(p * bin_h), y1 + math.ceil((p + 1) * bin_h)) if 0 <= y < height]
            cols = [x for x in range(x1 + math.floor(q * bin_w), x1 + math.ceil((q + 1) * bin_w)) if 0 <= x < width]
            for y, x in itertools.product(rows, cols):
                if source[r, c, p, q] < 0 or features[int(n), c, y, x] > out[r, c, p, q]:
                    out[r, c, p, q] = features[int(n), c, y, x]
                    source[r, c, p, q] = y * width + x
    return out, source


def some_rois(images=2, dtype=torch.float64):
    return torch.tensor([[k % images, *box] for k, box in enumerate(BOXES.values())], dtype=dtype)


def some_features(shape=(2, 3, 8, 7), dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def layout(features, channels_last):
    return features.contiguous(memory_format=torch.channels_last) if channels_last else features


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("size", [(4, 3), (1, 1), (2, 9)])
def test_follows_the_paper(pool, size, channels_last, dtype):
    features, rois = layout(some_features(dtype=dtype), channels_last).requires_grad_(), some_rois(dtype=dtype)
    expected, source = pool_by_the_paper(features.detach(), rois, 0.5, size)
    ours = pool(features, rois, scale=0.5, output_size=size)
    torch.testing.assert_close(ours, expected, atol=0, rtol=0)
    weight = torch.randn(expected.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    ours.backward(weight)
    gradient = torch.zeros(2, 3, 8 * 7 + 1, dtype=dtype)  # the last for "from nowhere"
    for r, c, p, q in itertools.product(*map(range, source.shape)):
        gradient[int(rois[r, 0]), c, source[r, c, p, q]] += weight[r, c, p, q]
    torch.testing.assert_close(features.grad, gradient[..., :-1].reshape(2, 3, 8, 7))


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("size", [(7, 7), (5, 9)])
def test_agrees_with_torchvision(pool, size, channels_last):
    """Values and gradients, with features that tie at zero as behind a ReLU, and a channel count that fills no vector.

    The last box has 57 pixels, which in 7 bins of float32 end one pixel late; the weights there are were trained so.
    """
    generator = torch.Generator().manual_seed(3)
    features = layout(torch.randn(2, 19, 40, 63, generator=generator).relu(), channels_last)
    centre = torch.rand(30, 2, generator=generator) * torch.tensor([63 * 8, 40 * 8])
    sides = torch.exp(torch.rand(30, 2, generator=generator) * 6)
    index = torch.randint(0, 2, (30, 1), generator=generator).float()
    rois = torch.cat([index, centre - sides / 2, centre + sides / 2], dim=1)
    rois = torch.cat([rois, torch.tensor([[1.0, 0, 0, 56 * 8, 30 * 8]])])
    weight = torch.randn(31, 19, *size, generator=generator)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    a = pool(ours, rois, scale=1 / 8, output_size=size)
    b = torchvision.ops.roi_pool(theirs, rois, size, 1 / 8)
    torch.testing.assert_close(a, b, atol=0, rtol=0)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_a_last_bin_that_ends_late_is_torchvisions(pool):
    """57 pixels in 7 bins: ceil(7 * (57 / 7)) is 58 in float32, so pixel 57 counts."""
    features = torch.zeros(1, 1, 1, 60)
    features[..., 57] = 1.0
    rois = torch.tensor([[0.0, 0, 0, 56, 0]])
    theirs = torchvision.ops.roi_pool(features, rois, (1, 7), 1.0)
    assert theirs.flatten().tolist() == [0, 0, 0, 0, 0, 0, 1]
    torch.testing.assert_close(pool(features, rois, scale=1.0, output_size=(1, 7)), theirs)


def test_gradcheck(pool):
    features = some_features((2, 2, 5, 6)).requires_grad_()
    run = functools.partial(pool, rois=some_rois()[[0, 2, 4, 5, 6, 7]], scale=0.4, output_size=(2, 3))
    assert torch.autograd.gradcheck(run, features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_half_types_are_summed_in_float32(pool, dtype, channels_last):
    rois = some_rois(dtype=torch.float32)
    half = layout(some_features((2, 20, 8, 7), torch.float32).to(dtype), channels_last).requires_grad_()
    exact = half.detach().float().requires_grad_()
    expected = pool(exact, rois, scale=0.5, output_size=(3, 4))
    ours = pool(half, rois, scale=0.5, output_size=(3, 4))
    assert ours.dtype == dtype
    assert torch.equal(ours.float(), expected)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected.backward(grad.float())
    ours.backward(grad)
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad, exact.grad.to(dtype), atol=0, rtol=2 * torch.finfo(dtype).eps)


def test_the_memory_format_is_kept(pool):
    features = some_features((2, 20, 8, 7), torch.float32)
    run = functools.partial(pool, rois=some_rois(dtype=torch.float32), scale=0.5, output_size=(3, 4))
    nhwc = layout(features, True).requires_grad_()
    strided = torch.stack([features, features], dim=-1)[..., 1].requires_grad_()
    expected = run(features)
    assert expected.is_contiguous()
    assert run(nhwc).is_contiguous(memory_format=torch.channels_last)
    for other in (nhwc, strided):
        assert torch.equal(run(other), expected)
        run(other).square().sum().backward()
        run(other).sum().backward()  # a gradient that is expanded, in neither layout
    torch.testing.assert_close(nhwc.grad, strided.grad, atol=1e-6, rtol=1e-6)
    assert nhwc.grad.is_contiguous(memory_format=torch.channels_last)


def test_nothing_in_nothing_out(pool):
    run = functools.partial(pool, scale=0.5, output_size=(3, 4))
    features = some_features((2, 5, 8, 7), torch.float32).requires_grad_()
    out = run(features, torch.zeros(0, 5))
    assert out.shape == (0, 5, 3, 4)
    out.sum().backward()
    assert features.grad.eq(0).all()  # in the graph, so that distributed training does not hang
    rois = torch.tensor([[0.0, 1, 1, 5, 5]])
    assert run(features[:, :0], rois).shape == (1, 0, 3, 4)
    assert run(features[:0], torch.zeros(0, 5)).shape == (0, 5, 3, 4)
    for flat in (features[:, :, :0], features[..., :0]):
        out = run(flat, rois)
        assert out.shape == (1, 5, 3, 4) and out.eq(0).all()
        assert torch.autograd.grad(out.sum(), flat)[0].shape == flat.shape
    one_pixel = run(features[:, :, :1, :1], torch.tensor([[1.0, 0, 0, 0, 0]]))
    torch.testing.assert_close(one_pixel, features[1:, :, :1, :1].expand(1, 5, 3, 4))


def test_a_non_finite_box_gives_nan_and_no_gradient(pool):
    features = some_features((2, 4, 8, 7), torch.float32).requires_grad_()
    good = torch.tensor([1, 1.3, 2.1, 9.7, 8.2])
    bad = torch.tensor([[1, torch.nan, 2, 9, 8], [0, 1, 2, torch.inf, 8], [0, 1, -torch.inf, 5, 8]])
    huge = torch.tensor([[0, -3e38, 2, 3e38, 8]])  # finite, but its width is not
    run = functools.partial(pool, scale=1.0, output_size=(2, 2))
    out = run(features, torch.cat([bad, good[None], huge]))
    assert out.isnan().flatten(1).all(dim=1).tolist() == [True, True, True, False, True]
    assert not out[3].isnan().any()
    (gradient,) = torch.autograd.grad(out.sum(), features)
    (expected,) = torch.autograd.grad(run(features, good[None]).sum(), features)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("size", [1e6, 1e9, 1e18, 1e30, 1e38])
def test_a_huge_box_around_the_map_has_it_in_its_middle_bin(pool, size):
    features = some_features((1, 4, 8, 7), torch.float32).requires_grad_()
    out = pool(features, torch.tensor([[0, -size, -size, size, size]]), scale=1.0, output_size=(3, 3))
    expected = torch.zeros(1, 4, 3, 3)
    expected[0, :, 1, 1] = features.detach().amax(dim=(2, 3))
    torch.testing.assert_close(out, expected, atol=0, rtol=0)
    out.sum().backward()
    assert features.grad.sum() == 4


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_nan_and_infinity_among_the_features_come_through(pool, channels_last):
    features = some_features((1, 4, 6, 6), torch.float32)
    features[0, 1, 2, 1] = torch.nan
    features[0, 2] = -torch.inf
    out = pool(layout(features, channels_last), torch.tensor([[0.0, 0, 0, 5, 5]]), scale=1.0, output_size=(2, 2))
    assert out[0].isnan().nonzero().tolist() == [[1, 0, 0]]
    assert out[0, 2].eq(-torch.inf).all()


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_the_gradient_does_not_depend_on_the_number_of_threads(channels_last):
    features = layout(some_features((2, 50, 12, 9), torch.float32), channels_last).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(80, 2, generator=generator) * 18
    rois = torch.cat([torch.arange(80)[:, None] % 2, corner, corner + 8], dim=1)
    grad = torch.randn(80, 50, 4, 4, generator=generator)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            out = roi_pool(features, rois, scale=0.5, output_size=(4, 4))
            results.append((out.detach(), *torch.autograd.grad(out, features, grad)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("index", [2.0, -1.0, math.nan, 1e30])
@pytest.mark.parametrize("run", [roi_pool, reference.roi_pool], ids=["operator", "reference"])
def test_an_image_index_out_of_range_is_an_error(run, index):
    rois = torch.tensor([[0, 1, 1, 5, 5], [index, 1, 1, 5, 5]])
    with pytest.raises(ValueError, match=r"rois: row 1 has image index .*, but there are 2 images"):
        run(some_features(dtype=torch.float32), rois, scale=1.0, output_size=(2, 2))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("index", [2.0, -1.0, math.nan, 1e30])
def test_on_cuda_an_image_index_out_of_range_gives_nan(index, deterministic):
    features = some_features(dtype=torch.float32).requires_grad_()
    rois = torch.tensor([[0, 1, 1, 5, 5], [index, 1, 1, 5, 5]])
    out = CudaOnCpu.apply(features, rois, 1.0, (2, 2), deterministic)
    assert out.isnan().flatten(1).all(dim=1).tolist() == [False, True]
    out.sum().backward()
    assert features.grad.sum() == 3 * 2 * 2


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("features", {"features": torch.zeros(3, 8, 7)}),
        ("features", {"features": torch.zeros(2, 3, 8, 7, dtype=torch.uint8)}),
        ("rois", {"rois": torch.zeros(4, 4)}),
        ("rois", {"rois": torch.zeros(4, 5, dtype=torch.float64)}),
        ("rois", {"rois": torch.zeros(4, 5, device="meta")}),
        ("output_size", {"output_size": (0, 7)}),
    ],
)
def test_errors_name_the_argument(argument, changes):
    good = {"features": torch.zeros(2, 3, 8, 7), "rois": torch.zeros(4, 5), "scale": 1.0, "output_size": (2, 2)}
    with pytest.raises(ValueError, match=f"^{argument}: "):
        roi_pool(**(good | changes))


def namespaces():
    """The compiled operators, which somebody may call without the checks of the public function."""
    return [torch.ops.maskrcnn, cuda_on_cpu.operators()]


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_the_operators_check_what_they_are_given():
    features, rois = torch.zeros(2, 3, 8, 7), torch.zeros(4, 5)
    grad, argmax = torch.zeros(4, 3, 2, 2), torch.zeros(4, 3, 2, 2, dtype=torch.int32)
    endless = torch.zeros(1).expand(1, 1, 2**16, 2**15)
    forward = [
        ("features: shape", (features[0], rois, 1.0, 2, 2)),
        ("features: dtype", (features.int(), rois, 1.0, 2, 2)),
        ("features: planes of 65536 x 32768 pixels; expected fewer than 2\\^31", (endless, rois[:0], 1.0, 2, 2)),
        ("rois: shape", (features, rois[:, :4], 1.0, 2, 2)),
        ("rois: dtype", (features, rois.double(), 1.0, 2, 2)),
        ("output_size: \\(2, 0\\)", (features, rois, 1.0, 2, 0)),
    ]
    backward = [
        ("grad: shape", (grad[:3], argmax, rois, 1.0, 2, 8, 7, False, False)),
        ("grad: dtype", (grad.int(), argmax, rois, 1.0, 2, 8, 7, False, False)),
        ("argmax: shape", (grad, argmax[..., :1], rois, 1.0, 2, 8, 7, False, False)),
        ("argmax: dtype", (grad, argmax.long(), rois, 1.0, 2, 8, 7, False, False)),
        ("features: -2 images", (grad, argmax, rois, 1.0, -2, 8, 7, False, False)),
        ("features: planes", (grad, argmax, rois, 1.0, 2, 2**16, 2**15, False, False)),
    ]
    for ops in namespaces():
        for message, arguments in forward:
            with pytest.raises(ValueError, match=f"^{message}"):
                ops.roi_pool(*arguments)
        for message, arguments in backward:
            with pytest.raises(ValueError, match=f"^{message}"):
                ops.roi_pool_backward(*arguments)


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_a_position_outside_the_plane_is_passed_over(channels_last, deterministic):
    argmax = torch.tensor([-(2**31), -1, 56, 2**31 - 1], dtype=torch.int32).reshape(1, 1, 2, 2)
    rest = (torch.zeros(1, 5), 1.0, 1, 8, 7, channels_last, deterministic)
    for ops in namespaces():
        assert ops.roi_pool_backward(torch.ones(1, 1, 2, 2), argmax, *rest).eq(0).all()


def test_autocast_changes_nothing():
    features, rois = some_features(dtype=torch.float32), some_rois(dtype=torch.float32)
    expected = roi_pool(features, rois, scale=0.5, output_size=(2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_pool(features, rois, scale=0.5, output_size=(2, 2)), expected)


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_opcheck(channels_last):
    features, rois = layout(some_features(dtype=torch.float32), channels_last), some_rois(dtype=torch.float32)
    _, argmax = torch.ops.maskrcnn.roi_pool(features, rois, 0.5, 2, 3)
    features.requires_grad_()
    torch.library.opcheck(torch.ops.maskrcnn.roi_pool.default, (features, rois, 0.5, 2, 3))
    torch.library.opcheck(torch.ops.maskrcnn.roi_pool.default, (features, rois[:0], 0.5, 2, 3))
    grad = torch.randn(len(rois), 3, 2, 3)
    torch.library.opcheck(
        torch.ops.maskrcnn.roi_pool_backward.default, (grad, argmax, rois, 0.5, 2, 8, 7, channels_last, False)
    )


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_in_a_compiled_training_step(dynamic):
    features, rois = some_features(dtype=torch.float32).requires_grad_(), some_rois(dtype=torch.float32)

    def loss(features, rois):
        return roi_pool(features, rois, scale=0.5, output_size=(2, 3)).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for count in (10, 4):
        (ours,) = torch.autograd.grad(compiled(features, rois[:count]), features)
        (expected,) = torch.autograd.grad(loss(features, rois[:count]), features)
        torch.testing.assert_close(ours, expected)
