import functools
import itertools
import math
import time

import pytest
import torch
import torchvision

from maskrcnn.ops import reference, roi_align
from maskrcnn.ops.extension import COMPILED

BOXES = {
    "inside": (1.3, 2.1, 9.7, 8.2),
    "whole map": (0, 0, 14, 16),
    "beyond the image": (-6, -4, 30, 30),
    "left of the image": (-30, 2, -20, 9),
    "no area": (5, 5, 5, 5),
    "no width": (5, 2, 5, 9),
    "inverted": (9, 11, 2, 3),
    "at the last pixel": (13, 15, 14, 16),
    "tiny": (3.1, 3.1, 3.2, 3.2),
    "large": (-500, -300, 700, 900),
}


@pytest.fixture(params=["operator", "reference"])
def align(request):
    return roi_align if request.param == "operator" else reference.roi_align


def align_by_the_paper(features, rois, scale, output_size, sampling_ratio, aligned):
    """Mask R-CNN §3 point by point: each point is a sum over the whole map of values times hat functions."""
    _, channels, height, width = features.shape
    out = torch.zeros(len(rois), channels, *output_size, dtype=features.dtype)
    for r, (n, *box) in enumerate(rois.tolist()):
        shift = 0.5 if aligned else 0.0
        x1, y1, x2, y2 = (scale * b - shift for b in box)
        sides = [y2 - y1, x2 - x1] if aligned else [max(y2 - y1, 1.0), max(x2 - x1, 1.0)]
        bin_h, bin_w = (side / bins for side, bins in zip(sides, output_size, strict=True))
        points_h = sampling_ratio or max(math.ceil(bin_h), 0)
        points_w = sampling_ratio or max(math.ceil(bin_w), 0)
        for p, q in itertools.product(*map(range, output_size)):
            for i, j in itertools.product(range(points_h), range(points_w)):
                y = y1 + (p + (i + 0.5) / points_h) * bin_h
                x = x1 + (q + (j + 0.5) / points_w) * bin_w
                if not (-1 <= y <= height and -1 <= x <= width):
                    continue
                y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                hats_y = torch.tensor([max(0.0, 1 - abs(y - v)) for v in range(height)], dtype=features.dtype)
                hats_x = torch.tensor([max(0.0, 1 - abs(x - u)) for u in range(width)], dtype=features.dtype)
                value = torch.einsum("cvu,v,u->c", features[int(n)], hats_y, hats_x)
                out[r, :, p, q] += value / (points_h * points_w)
    return out


def some_rois(images=2, dtype=torch.float64):
    return torch.tensor([[k % images, *box] for k, box in enumerate(BOXES.values())], dtype=dtype)


def some_features(shape=(2, 3, 8, 7), dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("sampling_ratio", [2, 3])
@pytest.mark.parametrize("box", list(BOXES.values()), ids=list(BOXES))
def test_follows_the_paper(align, box, sampling_ratio, aligned):
    features = some_features()
    rois = torch.tensor([[1, *box]], dtype=torch.float64)
    ours = align(features, rois, scale=0.5, output_size=(4, 3), sampling_ratio=sampling_ratio, aligned=aligned)
    torch.testing.assert_close(ours, align_by_the_paper(features, rois, 0.5, (4, 3), sampling_ratio, aligned))


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("box", [v for k, v in BOXES.items() if k != "large"], ids=[k for k in BOXES if k != "large"])
def test_adaptive_sampling_follows_the_paper(align, box, aligned):
    features = some_features()
    rois = torch.tensor([[1, *box]], dtype=torch.float64)
    ours = align(features, rois, scale=0.5, output_size=(2, 3), sampling_ratio=0, aligned=aligned)
    torch.testing.assert_close(ours, align_by_the_paper(features, rois, 0.5, (2, 3), 0, aligned))


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
@pytest.mark.parametrize(("sampling_ratio", "size"), [(0, (7, 7)), (2, (7, 7)), (3, (5, 9)), (1, (1, 1))])
def test_agrees_with_torchvision(align, sampling_ratio, size, aligned, channels_last):
    """Values and gradients in float32, on RoIs of all sizes and a channel count that fills no vector."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 37, 40, 53, generator=generator)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    centre = torch.rand(60, 2, generator=generator) * torch.tensor([53 * 8, 40 * 8])
    sides = torch.exp(torch.rand(60, 2, generator=generator) * 6)
    index = torch.randint(0, 2, (60, 1), generator=generator).float()
    rois = torch.cat([index, centre - sides / 2, centre + sides / 2], dim=1)
    weight = torch.randn(60, 37, *size, generator=generator)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    a = align(ours, rois, scale=1 / 8, output_size=size, sampling_ratio=sampling_ratio, aligned=aligned)
    b = torchvision.ops.roi_align(theirs, rois, size, 1 / 8, sampling_ratio, aligned)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradcheck(align, sampling_ratio):
    features = some_features((2, 2, 5, 6)).requires_grad_()
    rois = some_rois()[[0, 2, 4, 6, 7, 8]]
    run = functools.partial(
        align, rois=rois, scale=0.4, output_size=(2, 3), sampling_ratio=sampling_ratio, aligned=True
    )
    assert torch.autograd.gradcheck(run, features, fast_mode=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_half_types_are_summed_in_float32(align, dtype, channels_last):
    rois = some_rois(dtype=torch.float32)
    exact = some_features((2, 20, 8, 7), torch.float32).to(dtype).float()
    exact.requires_grad_()
    half = exact.detach().to(dtype)
    if channels_last:
        half = half.contiguous(memory_format=torch.channels_last)
    half.requires_grad_()
    arguments = {"scale": 0.5, "output_size": (3, 4), "sampling_ratio": 2, "aligned": True}
    expected = align(exact, rois, **arguments)
    ours = align(half, rois, **arguments)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))  # one rounding, at the end
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected.backward(grad.float())
    ours.backward(grad)
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad, exact.grad.to(dtype), atol=0, rtol=2 * torch.finfo(dtype).eps)


def test_the_memory_format_is_kept(align):
    features = some_features((2, 20, 8, 7), torch.float32)
    rois = some_rois(dtype=torch.float32)
    run = functools.partial(align, rois=rois, scale=0.5, output_size=(3, 4), sampling_ratio=2, aligned=True)
    nhwc = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    strided = torch.stack([features, features], dim=-1)[..., 1].requires_grad_()
    expected = run(features)
    assert expected.is_contiguous()
    assert run(nhwc).is_contiguous(memory_format=torch.channels_last)
    for other in (nhwc, strided):
        torch.testing.assert_close(run(other), expected, atol=0, rtol=0)
        run(other).square().sum().backward()
    torch.testing.assert_close(nhwc.grad, strided.grad, atol=1e-6, rtol=1e-6)
    assert nhwc.grad.is_contiguous(memory_format=torch.channels_last)


def test_nothing_in_nothing_out(align):
    run = functools.partial(align, scale=0.5, output_size=(3, 4), sampling_ratio=2, aligned=True)
    features = some_features((2, 5, 8, 7), torch.float32).requires_grad_()
    out = run(features, torch.zeros(0, 5))
    assert out.shape == (0, 5, 3, 4)
    out.sum().backward()
    assert features.grad.eq(0).all()  # in the graph, so that distributed training does not hang
    rois = torch.tensor([[0.0, 1, 1, 5, 5]])
    assert run(features[:, :0], rois).shape == (1, 0, 3, 4)
    assert run(features[:0], torch.zeros(0, 5)).shape == (0, 5, 3, 4)
    assert run(features[:, :, :0], rois).eq(0).all()


def test_a_non_finite_box_gives_nan_and_no_gradient(align):
    features = some_features((2, 4, 8, 7), torch.float32).requires_grad_()
    good = torch.tensor([1, 1.3, 2.1, 9.7, 8.2])
    bad = torch.tensor([[1, torch.nan, 2, 9, 8], [0, 1, 2, torch.inf, 8], [0, 1, -torch.inf, 5, 8]])
    huge = torch.tensor([[0, -3e38, 2, 3e38, 8]])  # finite, but its width is not
    run = functools.partial(align, scale=1.0, output_size=(2, 2), sampling_ratio=2, aligned=True)
    out = run(features, torch.cat([bad, good[None], huge]))
    assert out.isnan().flatten(1).all(dim=1).tolist() == [True, True, True, False, True]
    (gradient,) = torch.autograd.grad(out.sum(), features)
    (expected,) = torch.autograd.grad(run(features, good[None]).sum(), features)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_huge_boxes_are_quick_and_finite(align, sampling_ratio):
    """Adaptive sampling of a box of a million pixels may not visit a trillion points."""
    features = some_features((1, 4, 8, 7), torch.float32).requires_grad_()
    sizes = torch.tensor([1e4, 1e6, 1e9, 1e18, 1e30, 1e38])
    rois = torch.stack([torch.zeros(6), -sizes, -sizes / 2, sizes, sizes], dim=1)
    started = time.perf_counter()
    out = align(features, rois, scale=1.0, output_size=(2, 2), sampling_ratio=sampling_ratio, aligned=True)
    out.sum().backward()
    assert out.isfinite().all() and features.grad.isfinite().all()
    assert time.perf_counter() - started < 5


def test_adaptive_sampling_of_a_large_box_is_the_mean_of_the_map_times_its_share(align):
    """A box of 64 x 64 around an 8 x 8 map of ones, as one bin with one point per pixel.

    Its points lie at whole coordinates, and those from -1 to 8 count as on the map: 10 of 64 an axis.
    """
    rois = torch.tensor([[0.0, -28, -28, 36, 36]])
    out = align(torch.ones(1, 1, 8, 8), rois, scale=1.0, output_size=(1, 1), sampling_ratio=0, aligned=True)
    torch.testing.assert_close(out, torch.full((1, 1, 1, 1), (10 / 64) ** 2))


def test_the_gradient_does_not_depend_on_the_number_of_threads():
    features = some_features((2, 50, 12, 9), torch.float32).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(80, 2, generator=generator) * 18
    rois = torch.cat([torch.arange(80)[:, None] % 2, corner, corner + 8], dim=1)
    grad = torch.randn(80, 50, 4, 4, generator=generator)
    threads, gradients = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            out = roi_align(features, rois, scale=0.5, output_size=(4, 4))
            gradients += torch.autograd.grad(out, features, grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


@pytest.mark.parametrize("index", [2.0, -1.0, math.nan, 1e30])
def test_an_image_index_out_of_range_is_an_error(align, index):
    rois = torch.tensor([[0, 1, 1, 5, 5], [index, 1, 1, 5, 5]])
    with pytest.raises(ValueError, match=r"rois: row 1 has image index .*, but there are 2 images"):
        align(some_features(dtype=torch.float32), rois, scale=1.0, output_size=(2, 2), sampling_ratio=2, aligned=True)


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("features", {"features": torch.zeros(3, 8, 7)}),
        ("features", {"features": torch.zeros(2, 3, 8, 7, dtype=torch.uint8)}),
        ("rois", {"rois": torch.zeros(4, 4)}),
        ("rois", {"rois": torch.zeros(4, 5, dtype=torch.float64)}),
        ("rois", {"rois": torch.zeros(4, 5, device="meta")}),
        ("output_size", {"output_size": (0, 7)}),
        ("sampling_ratio", {"sampling_ratio": -1}),
    ],
)
def test_errors_name_the_argument(argument, changes):
    good = {"features": torch.zeros(2, 3, 8, 7), "rois": torch.zeros(4, 5), "scale": 1.0, "output_size": (2, 2)}
    with pytest.raises(ValueError, match=f"^{argument}: "):
        roi_align(**(good | changes))


def test_autocast_changes_nothing():
    features, rois = some_features(dtype=torch.float32), some_rois(dtype=torch.float32)
    expected = roi_align(features, rois, scale=0.5, output_size=(2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align(features, rois, scale=0.5, output_size=(2, 2)), expected)


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_opcheck(channels_last):
    features, rois = some_features(dtype=torch.float32), some_rois(dtype=torch.float32)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    features.requires_grad_()
    torch.library.opcheck(torch.ops.maskrcnn.roi_align.default, (features, rois, 0.5, 2, 3, 2, True))
    torch.library.opcheck(torch.ops.maskrcnn.roi_align.default, (features, rois[:0], 0.5, 2, 3, 0, False))
    grad = torch.randn(len(rois), 3, 2, 3)
    torch.library.opcheck(
        torch.ops.maskrcnn.roi_align_backward.default, (grad, rois, 0.5, 2, 8, 7, 2, True, channels_last)
    )


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_in_a_compiled_training_step():
    features, rois = some_features(dtype=torch.float32).requires_grad_(), some_rois(dtype=torch.float32)

    def loss(features, rois):
        return roi_align(features, rois, scale=0.5, output_size=(2, 3)).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for count in (10, 4):
        (ours,) = torch.autograd.grad(compiled(features, rois[:count]), features)
        (expected,) = torch.autograd.grad(loss(features, rois[:count]), features)
        torch.testing.assert_close(ours, expected)
