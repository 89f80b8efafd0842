import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from maskrcnn.ops import reference, roi_warp, roi_warp_pool
from maskrcnn.ops.extension import COMPILED
from ops import cuda_on_cpu

BOXES = {
    "inside": (1.3, 2.1, 9.7, 8.2),
    "whole map": (0, 0, 14, 16),
    "beyond the map": (-6, -4, 30, 30),
    "left of the map": (-30, 2, -20, 9),
    "no area": (5, 5, 5, 5),
    "no width": (5.3, 2, 5.3, 9),
    "inverted": (9, 11, 2, 3),
    "around the last pixel": (11, 13.4, 14, 16),
    "before the first pixel": (-1.9, -1.5, 0.1, 1),
    "tiny": (3.1, 3.1, 3.2, 3.2),
    "large": (-500, -300, 700, 900),
}


class CudaOnCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, rois, scale, output_size, rounded, deterministic):
        last = features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()
        ctx.options = scale, rounded, last, deterministic
        ctx.save_for_backward(features, rois)
        return cuda_on_cpu.operators().roi_warp(features, rois, scale, *output_size, rounded)

    @staticmethod
    def backward(ctx, grad):
        (features, rois), (scale, rounded, last, deterministic) = ctx.saved_tensors, ctx.options
        n, _, h, w = features.shape
        ops = cuda_on_cpu.operators()
        to_features = ops.roi_warp_backward_input(grad, rois, scale, n, h, w, rounded, last, deterministic)
        return to_features, ops.roi_warp_backward_rois(grad, features, rois, scale, rounded), None, None, None, None


def on_cpu_like_cuda(deterministic, features, rois, *, scale, output_size, rounded=False):
    return CudaOnCpu.apply(features, rois, scale, output_size, rounded, deterministic)


def on_cuda(features, rois, **options):
    return roi_warp(features.cuda(), rois.cuda(), **options).cpu()


IMPLEMENTATIONS = {
    "operator": roi_warp,
    "reference": reference.roi_warp,
    "cuda on cpu": functools.partial(on_cpu_like_cuda, False),
    "cuda on cpu, deterministic": functools.partial(on_cpu_like_cuda, True),
    "cuda": on_cuda,
}


@pytest.fixture(params=list(IMPLEMENTATIONS))
def warp(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return IMPLEMENTATIONS[request.param]


def warp_by_the_paper(features, rois, scale, output_size, rounded=False):
    """Eq. 6-8 as printed: centre-and-size boxes, and sums over the whole map."""
    (height, width), (out_h, out_w) = features.shape[2:], output_size
    out = torch.zeros(len(rois), features.shape[1], out_h, out_w, dtype=features.dtype)
    for r, (n, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (scale * b for b in box)
        if rounded:  # the released code's corners
            x1, y1, x2, y2 = (math.copysign(math.floor(abs(c) + 0.5), c) for c in (x1, y1, x2, y2))
            x2, y2 = max(x1, x2), max(y1, y2)
        x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        for p, q in itertools.product(range(out_h), range(out_w)):
            u, v = q - out_w / 2, p - out_h / 2
            g_x = [max(0.0, 1 - abs(x + u / out_w * w - j)) for j in range(width)]
            g_y = [max(0.0, 1 - abs(y + v / out_h * h - i)) for i in range(height)]
            g_x, g_y = (torch.tensor(g, dtype=features.dtype) for g in (g_x, g_y))
            out[r, :, p, q] = torch.einsum("cij,i,j->c", features[int(n)], g_y, g_x)
    return out


def some_rois(images=2, dtype=torch.float64):
    return torch.tensor([[k % images, *box] for k, box in enumerate(BOXES.values())], dtype=dtype)


def some_features(shape=(2, 3, 8, 7), dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def layout(features, channels_last):
    return features.contiguous(memory_format=torch.channels_last) if channels_last else features


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("rounded", [False, True], ids=["exact", "rounded"])
@pytest.mark.parametrize("size", [(4, 3), (1, 1), (2, 9)])
def test_follows_the_equations(warp, size, rounded, channels_last, dtype):
    features, rois = layout(some_features(dtype=dtype), channels_last), some_rois(dtype=dtype)
    ours = warp(features, rois, scale=0.5, output_size=size, rounded=rounded)
    expected = warp_by_the_paper(features.double(), rois.double(), 0.5, size, rounded)
    # "large" is 600 pixels wide: float32 places its samples to within 2e-5.
    torch.testing.assert_close(ours, expected.to(dtype), atol=1e-10 if dtype == torch.float64 else 5e-5, rtol=1e-5)


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("rounded", [False, True], ids=["exact", "rounded"])
def test_agrees_with_the_reference_on_many_channels(warp, rounded, channels_last):
    """More channels than a block holds, and not a whole number of vectors."""
    generator = torch.Generator().manual_seed(3)
    features = layout(torch.randn(2, 70, 12, 15, generator=generator), channels_last)
    corner = torch.rand(12, 2, generator=generator) * 90
    rois = torch.cat([torch.arange(12)[:, None] % 2, corner, corner + torch.rand(12, 2, generator=generator) * 80], 1)
    grad, gradients = torch.randn(12, 70, 5, 6, generator=generator), []
    for run in (warp, reference.roi_warp):
        inputs = features.clone().requires_grad_(), rois.clone().requires_grad_()
        out = run(*inputs, scale=0.125, output_size=(5, 6), rounded=rounded)
        gradients.append((out.detach(), *torch.autograd.grad(out, inputs, grad)))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)


# No sample within 0.01 of a whole coordinate, where the gradient to the box jumps.
SMOOTH = {
    "inside": (1.33, 2.13, 9.71, 8.23),
    "beyond the map": (-6.1, -4.2, 30.3, 30.7),
    "no area": (5.1, 5.1, 5.1, 5.1),
    "inverted": (9.1, 11.1, 2.33, 3.1),
    "around the last pixel": (11.3, 13.4, 14.1, 16.3),
    "before the first pixel": (-1.9, -1.5, 0.13, 1.05),
    "outside": (-30.1, 2.1, -20.1, 9.1),
}


@pytest.mark.parametrize("box", list(SMOOTH.values()), ids=list(SMOOTH))
def test_gradcheck_of_features_and_boxes(warp, box):
    for low, high, samples in ((box[0], box[2], 3), (box[1], box[3], 2)):
        points = [0.5 * (low + p / samples * (high - low)) for p in range(samples)]
        assert all(abs(x - round(x)) > 0.01 for x in points)
    features = some_features((2, 2, 8, 7)).requires_grad_()
    boxes = torch.tensor([box], dtype=torch.float64, requires_grad=True)
    image = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)

    def run(features, boxes):
        return warp(features, torch.cat([image, boxes], dim=1), scale=0.5, output_size=(2, 3))

    assert torch.autograd.gradcheck(run, (features, boxes))
    assert torch.autograd.grad(run(features, boxes).sum(), image)[0] == 0


def box_gradient(warp, row, x1, x2, samples, rounded=False):
    """Of the sum of samples of a map of one row to (x1, x2)."""
    rois = torch.tensor([[0, x1, 0, x2, 0]], dtype=torch.float64, requires_grad=True)
    features = torch.tensor(row, dtype=torch.float64).reshape(1, 1, 1, -1)
    out = warp(features, rois, scale=1.0, output_size=(1, samples), rounded=rounded)
    return torch.autograd.grad(out.sum(), rois)[0][0, [1, 3]].tolist()


def test_at_a_kink_the_gradient_is_the_one_to_the_right(warp):
    row = [1.0, 4.0, 2.0, 7.0]
    slope = [1, 3, -2, 5, -7]  # over the cells from -1, 0, 1, 2 and 3, zero beyond both ends
    for x in range(-1, 4):
        assert box_gradient(warp, row, x, x, samples=1) == [slope[x + 1], 0]  # one sample, at x1
    assert box_gradient(warp, row, -2, -2, samples=1) == [0, 0]
    assert box_gradient(warp, row, 4, 4, samples=1) == [0, 0]
    # Samples at 0 and 1; the second shares its gradient equally.
    assert box_gradient(warp, row, 0, 2, samples=2) == [slope[1] + slope[2] / 2, slope[2] / 2]
    # Mirrored, at 2 and 1: still the cells to the right of both.
    assert box_gradient(warp, row, 2, 0, samples=2) == [slope[3] + slope[2] / 2, slope[2] / 2]


def test_rounding_has_the_gradient_of_the_identity(warp):
    """That of the exact warp at the rounded corners; where the size is held at zero, x1 alone moves the samples."""
    row = [1.0, 4.0, 2.0, 7.0]
    assert box_gradient(warp, row, 0.3, 1.6, 2, rounded=True) == box_gradient(warp, row, 0, 2, 2)
    assert box_gradient(warp, row, 0.5, 2.5, 2, rounded=True) == box_gradient(warp, row, 1, 3, 2)  # away from zero
    assert box_gradient(warp, row, 1.2, 0.9, 2, rounded=True) == box_gradient(warp, row, 1, 1, 2) == [-3, -1]
    assert box_gradient(warp, row, 2.2, 0.9, 2, rounded=True) == [10, 0]
    generator = torch.Generator().manual_seed(1)
    features, corner = some_features(), torch.rand(20, 2, generator=generator, dtype=torch.float64) * 12 - 2
    sides = torch.rand(20, 2, generator=generator, dtype=torch.float64) * 8
    rois = torch.cat([torch.arange(20)[:, None] % 2, corner, corner + sides], dim=1)
    assert not (rois[:, 1:] % 1 == 0.5).any()
    grad, gradients = torch.randn(20, 3, 3, 4, generator=generator, dtype=torch.float64), []
    for boxes, rounded in ((rois, True), (rois.round(), False)):
        inputs = features.clone().requires_grad_(), boxes.clone().requires_grad_()
        out = warp(*inputs, scale=1.0, output_size=(3, 4), rounded=rounded)
        gradients.append(torch.autograd.grad(out, inputs, grad))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_half_types_are_summed_in_float32_and_boxes_keep_float32_gradients(warp, dtype, channels_last):
    rois, exact_rois = (some_rois(dtype=torch.float32).requires_grad_() for _ in range(2))
    half = layout(some_features((2, 20, 8, 7), torch.float32).to(dtype), channels_last).requires_grad_()
    exact = half.detach().float().requires_grad_()
    expected = warp(exact, exact_rois, scale=0.5, output_size=(3, 4))
    ours = warp(half, rois, scale=0.5, output_size=(3, 4))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))  # one rounding, at the end
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected.backward(grad.float())
    ours.backward(grad)
    assert half.grad.dtype == dtype and rois.grad.dtype == torch.float32
    torch.testing.assert_close(half.grad, exact.grad.to(dtype), atol=1e-6, rtol=2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(rois.grad, exact_rois.grad, atol=1e-5, rtol=1e-5)


def test_the_memory_format_is_kept(warp):
    features = some_features((2, 20, 8, 7), torch.float32)
    run = functools.partial(warp, rois=some_rois(dtype=torch.float32).requires_grad_(), scale=0.5, output_size=(3, 4))
    nhwc = layout(features, True).requires_grad_()
    strided = torch.stack([features, features], dim=-1)[..., 1].requires_grad_()
    expected = run(features)
    assert expected.is_contiguous()
    assert run(nhwc).is_contiguous(memory_format=torch.channels_last)
    for other in (nhwc, strided):
        torch.testing.assert_close(run(other), expected, atol=0, rtol=0)
        run(other).square().sum().backward()
        run(other).sum().backward()  # a gradient that is expanded, in neither layout
    torch.testing.assert_close(nhwc.grad, strided.grad, atol=1e-5, rtol=1e-5)
    assert nhwc.grad.is_contiguous(memory_format=torch.channels_last)


def test_nothing_in_nothing_out(warp):
    run = functools.partial(warp, scale=0.5, output_size=(3, 4))
    features = some_features((2, 5, 8, 7), torch.float32).requires_grad_()
    none = torch.zeros(0, 5, requires_grad=True)
    out = run(features, none)
    assert out.shape == (0, 5, 3, 4)
    out.sum().backward()
    assert features.grad.eq(0).all() and none.grad.shape == (0, 5)  # in the graph: distributed training does not hang
    rois = torch.tensor([[0.0, 1, 1, 5, 5]], requires_grad=True)
    assert run(features[:0], torch.zeros(0, 5)).shape == (0, 5, 3, 4)
    for empty in (features[:, :0], features[:, :, :0], features[..., :0]):
        out = run(empty, rois)
        assert out.shape == (1, empty.shape[1], 3, 4) and out.eq(0).all()
        for_features, for_rois = torch.autograd.grad(out.sum(), (empty, rois))
        assert for_features.shape == empty.shape and for_rois.eq(0).all()
    out = run(features[:, :, :1, :1], torch.tensor([[1.0, 0, 0, 0, 0]]))
    torch.testing.assert_close(out, features[1:, :, :1, :1].expand(1, 5, 3, 4))


def test_a_non_finite_box_gives_nan_and_no_gradient(warp):
    features = some_features((2, 4, 8, 7), torch.float32).requires_grad_()
    good = torch.tensor([1, 1.3, 2.1, 9.7, 8.2])
    bad = torch.tensor([[1, torch.nan, 2, 9, 8], [0, 1, 2, torch.inf, 8], [0, 1, -torch.inf, 5, 8]])
    huge = torch.tensor([[0, -3e38, 2, 3e38, 8]])  # finite, but its width is not
    run = functools.partial(warp, scale=1.0, output_size=(2, 2))
    rois = torch.cat([bad, good[None], huge]).requires_grad_()
    out = run(features, rois)
    assert out.isnan().flatten(1).all(dim=1).tolist() == [True, True, True, False, True]
    assert not out[3].isnan().any()
    alone = good[None].clone().requires_grad_()
    gradients = torch.autograd.grad(out.sum(), (features, rois))
    expected = torch.autograd.grad(run(features, alone).sum(), (features, alone))
    torch.testing.assert_close(gradients[0], expected[0])
    torch.testing.assert_close(gradients[1][3:4], expected[1])
    assert gradients[1][[0, 1, 2, 4]].eq(0).all()


def test_huge_boxes_are_finite(warp):
    features = some_features((1, 4, 8, 7), torch.float32).requires_grad_()
    sizes = torch.tensor([1e4, 1e6, 1e9, 1e18, 1e30, 1e38])
    rois = torch.stack([torch.zeros(6), -sizes, -sizes / 2, sizes, sizes], dim=1)
    rois = torch.cat([rois, rois[:, [0, 3, 4, 1, 2]]]).requires_grad_()
    for rounded in (False, True):
        out = warp(features, rois, scale=1.0, output_size=(3, 2), rounded=rounded)
        assert out[:, :, 0].eq(0).all()
        for gradient in torch.autograd.grad(out.sum(), (features, rois)):
            assert gradient.isfinite().all()


def test_a_pixel_that_no_sample_is_near_has_no_say(warp):
    features = torch.ones(1, 1, 6, 6)
    features[..., 0, 0] = torch.nan
    features[..., 5, 5] = torch.inf
    rois = torch.tensor([[0, 1.5, 1.5, 3.5, 3.5], [0, 20, 20, 30, 30]])
    out = warp(features, rois, scale=1.0, output_size=(2, 2))
    assert out[0].eq(1).all() and out[1].eq(0).all()


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_the_gradients_do_not_depend_on_the_number_of_threads(channels_last):
    features = layout(some_features((2, 150, 12, 9), torch.float32), channels_last).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(40, 2, generator=generator) * 18
    rois = torch.cat([torch.arange(40)[:, None] % 2, corner, corner + 8], dim=1).requires_grad_()
    grad = torch.randn(40, 150, 4, 4, generator=generator)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            out = roi_warp(features, rois, scale=0.5, output_size=(4, 4))
            results.append((out.detach(), *torch.autograd.grad(out, (features, rois), grad)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("index", [2.0, -1.0, math.nan, 1e30])
@pytest.mark.parametrize("run", [roi_warp, reference.roi_warp], ids=["operator", "reference"])
def test_an_image_index_out_of_range_is_an_error(run, index):
    rois = torch.tensor([[0, 1, 1, 5, 5], [index, 1, 1, 5, 5]])
    with pytest.raises(ValueError, match=r"rois: row 1 has image index .*, but there are 2 images"):
        run(some_features(dtype=torch.float32), rois, scale=1.0, output_size=(2, 2))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("index", [2.0, -1.0, math.nan, 1e30])
def test_on_cuda_an_image_index_out_of_range_gives_nan(index, deterministic):
    features = some_features(dtype=torch.float32).requires_grad_()
    rois = torch.tensor([[0, 1, 1, 5, 5], [index, 1, 1, 5, 5]], requires_grad=True)
    out = CudaOnCpu.apply(features, rois, 1.0, (2, 2), False, deterministic)
    assert out.isnan().flatten(1).all(dim=1).tolist() == [False, True]
    out.sum().backward()
    torch.testing.assert_close(features.grad.sum(), torch.tensor(3 * 2 * 2.0))
    assert rois.grad[1].eq(0).all()


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
@pytest.mark.parametrize("run", [roi_warp, roi_warp_pool])
def test_errors_name_the_argument(run, argument, changes):
    good = {"features": torch.zeros(2, 3, 8, 7), "rois": torch.zeros(4, 5), "scale": 1.0, "output_size": (2, 2)}
    with pytest.raises(ValueError, match=f"^{argument}: "):
        run(**(good | changes))


@pytest.mark.parametrize(("argument", "value"), [("pool", "min"), ("window", 0)])
def test_errors_of_pooling_name_the_argument(argument, value):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        roi_warp_pool(torch.zeros(2, 3, 8, 7), torch.zeros(4, 5), scale=1.0, output_size=(2, 2), **{argument: value})


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_the_operators_check_what_they_are_given():
    features, rois, grad = torch.zeros(2, 3, 8, 7), torch.zeros(4, 5), torch.zeros(4, 3, 2, 2)
    calls = [
        ("roi_warp", "features: shape", (features[0], rois, 1.0, 2, 2, False)),
        ("roi_warp", "features: dtype", (features.int(), rois, 1.0, 2, 2, False)),
        ("roi_warp", "rois: shape", (features, rois[:, :4], 1.0, 2, 2, False)),
        ("roi_warp", "rois: dtype", (features, rois.double(), 1.0, 2, 2, False)),
        ("roi_warp", "output_size: \\(2, 0\\)", (features, rois, 1.0, 2, 0, False)),
        ("roi_warp_backward_input", "grad: shape", (grad[:3], rois, 1.0, 2, 8, 7, False, False, False)),
        ("roi_warp_backward_input", "grad: dtype", (grad.int(), rois, 1.0, 2, 8, 7, False, False, False)),
        ("roi_warp_backward_input", "rois: dtype", (grad.double(), rois, 1.0, 2, 8, 7, False, False, False)),
        ("roi_warp_backward_input", "features: 2 images", (grad, rois, 1.0, 2, -8, 7, False, False, False)),
        ("roi_warp_backward_rois", "grad: shape", (grad[:3], features, rois, 1.0, False)),
        ("roi_warp_backward_rois", "grad: shape", (grad[:, :2], features, rois, 1.0, False)),
        ("roi_warp_backward_rois", "grad: dtype", (grad.half(), features, rois, 1.0, False)),
        ("roi_warp_backward_rois", "features: shape", (grad, features[0], rois, 1.0, False)),
    ]
    for ops in (torch.ops.maskrcnn, cuda_on_cpu.operators()):
        for name, message, arguments in calls:
            with pytest.raises(ValueError, match=f"^{message}"):
                getattr(ops, name)(*arguments)


def test_autocast_changes_nothing():
    features, rois = some_features(dtype=torch.float32), some_rois(dtype=torch.float32)
    expected = roi_warp(features, rois, scale=0.5, output_size=(2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_warp(features, rois, scale=0.5, output_size=(2, 2)), expected)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("pool", ["max", "average"])
def test_pooling_behind_the_warp(pool, window):
    features = some_features().requires_grad_()
    rois = some_rois().requires_grad_()
    ours = roi_warp_pool(features, rois, scale=0.5, output_size=(2, 3), pool=pool, window=window)
    warped = warp_by_the_paper(features.detach(), rois.detach(), 0.5, (2 * window, 3 * window))
    windows = warped.unflatten(3, (3, window)).unflatten(2, (2, window))
    expected = windows.amax(dim=(3, 5)) if pool == "max" else windows.mean(dim=(3, 5))
    torch.testing.assert_close(ours, expected)
    for gradient in torch.autograd.grad(ours.square().sum(), (features, rois)):
        assert gradient.isfinite().all() and gradient.ne(0).any()


def test_pooling_of_nothing():
    features, rois = torch.zeros(2, 5, 8, 7, requires_grad=True), torch.zeros(3, 5)
    assert roi_warp_pool(features, rois[:0], scale=0.5, output_size=(2, 3)).shape == (0, 5, 2, 3)
    out = roi_warp_pool(features[:, :0], rois, scale=0.5, output_size=(2, 3))
    assert out.shape == (3, 0, 2, 3) and out.requires_grad


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_with_constant_boxes_the_features_are_not_kept():
    """The map is linear in them; a stage of a backbone is too large to be kept for nothing."""
    features, rois = some_features().requires_grad_(), some_rois()
    for boxes, expected in ((rois, [rois.shape]), (rois.clone().requires_grad_(), [rois.shape, features.shape])):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.shape) or t, lambda t: t):
            out = torch.ops.maskrcnn.roi_warp(features, boxes, 0.5, 2, 2, False)
        assert kept == expected
        out.sum().backward()


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_opcheck(channels_last):
    features = layout(some_features(dtype=torch.float32), channels_last).requires_grad_()
    rois, ops = some_rois(dtype=torch.float32).requires_grad_(), torch.ops.maskrcnn
    torch.library.opcheck(ops.roi_warp.default, (features, rois, 0.5, 2, 3, False))
    torch.library.opcheck(ops.roi_warp.default, (features, rois.detach()[:0], 0.5, 2, 3, True))
    grad, rois = torch.randn(len(rois), 3, 2, 3), rois.detach()
    torch.library.opcheck(ops.roi_warp_backward_input.default, (grad, rois, 0.5, 2, 8, 7, False, channels_last, False))
    torch.library.opcheck(ops.roi_warp_backward_rois.default, (grad, features.detach(), rois, 0.5, True))


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_in_a_compiled_training_step(dynamic):
    features = some_features(dtype=torch.float32).requires_grad_()
    rois = some_rois(dtype=torch.float32).requires_grad_()

    def loss(features, rois):
        return F.max_pool2d(roi_warp(features, rois, scale=0.5, output_size=(2, 4)), 2).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for count in (10, 4):
        ours = torch.autograd.grad(compiled(features, rois[:count]), (features, rois))
        expected = torch.autograd.grad(loss(features, rois[:count]), (features, rois))
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("size", [(2**40, 0, 3), (2**40, 3, 0)])
def test_countless_images_without_a_pixel_take_no_time(size):
    grad, rois = torch.zeros(0, 2, 3, 3), torch.zeros(0, 5)
    found = torch.ops.maskrcnn.roi_warp_backward_input(grad, rois, 1.0, *size, False, False, False)
    assert found.shape == (size[0], 2, *size[1:])
    argmax = grad.int()
    assert torch.ops.maskrcnn.roi_pool_backward(grad, argmax, rois, 1.0, *size, False, False).shape == found.shape
    options = (1.0,), 2, True, False, False, None
    (found,) = torch.ops.maskrcnn.roi_align_backward(grad, [], rois, size, options[0], *options[1:], False, False)
    assert found.shape == (size[0], 2, *size[1:])
