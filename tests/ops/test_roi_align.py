import functools
import time

import pytest
import torch
import torchvision

from maskrcnn.ops import roi_align
from maskrcnn.ops.extension import COMPILED
from ops.roi_align_cases import (
    BOXES,
    IMPLEMENTATIONS,
    MODULE,
    align_by_the_paper,
    random_rois,
    some_features,
    some_rois,
    use,
)

aggregations = pytest.mark.parametrize("aggregation", ["average", "max"])
alignments = pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
layouts = pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
needs_operators = pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    use(request.param, monkeypatch)
    return request.param


def in_layout(features, channels_last):
    return features.contiguous(memory_format=torch.channels_last) if channels_last else features


@aggregations
@alignments
@pytest.mark.parametrize("sampling_ratio", [0, 2, 3])
def test_follows_the_paper(implementation, sampling_ratio, aligned, aggregation):
    names = tuple(name for name in BOXES if name != "large" or sampling_ratio > 0)  # a million points in Python
    options = {"sampling_ratio": sampling_ratio, "aligned": aligned, "aggregation": aggregation}
    ours = roi_align(some_features(), rois_of(names), scale=0.5, output_size=(4, 3), **options)
    expected = by_the_paper(names, **options)
    for name, a, b in zip(names, ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def rois_of(names):
    return torch.tensor([[1, *BOXES[name]] for name in names], dtype=torch.float64)


@functools.cache  # the same for every implementation
def by_the_paper(names, **options):
    return align_by_the_paper(some_features(), rois_of(names), 0.5, (4, 3), **options)


@aggregations
def test_float32_is_exact_to_1e_5(implementation, aggregation):
    features, rois = some_features((2, 5, 8, 7), torch.float32), some_rois(dtype=torch.float32)
    ours = roi_align(features, rois, scale=0.5, output_size=(2, 3), aggregation=aggregation)
    expected = align_by_the_paper(features.double(), rois.double(), 0.5, (2, 3), aggregation=aggregation)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "box", [(3, 5, 8.9, 13.1), (-3, -5, 9, 9.2), (2.9, 3, 3.1, 3)], ids=["half", "negative", "tiny"]
)
@aggregations
def test_rounded_corners_follow_the_paper(implementation, box, aggregation):
    """Table 2c's RoIWarp. At a scale of 1/2, 3 becomes 1.5 and then 2, and -3 becomes -2: half away from zero."""
    features, rois = some_features(), torch.tensor([[1, *box]], dtype=torch.float64)
    options = {"aggregation": aggregation, "round_boxes": True}
    ours = roi_align(features, rois, scale=0.5, output_size=(4, 3), **options)
    torch.testing.assert_close(ours, align_by_the_paper(features, rois, 0.5, (4, 3), **options), atol=1e-10, rtol=1e-10)
    on_whole_pixels = torch.cat([rois[:, :1], (rois[:, 1:].abs() / 2 + 0.5).floor() * rois[:, 1:].sign() * 2], dim=1)
    unrounded = roi_align(features, on_whole_pixels, scale=0.5, output_size=(4, 3), aggregation=aggregation)
    torch.testing.assert_close(ours, unrounded)


@layouts
@alignments
@pytest.mark.parametrize(("sampling_ratio", "size"), [(0, (7, 7)), (2, (7, 7)), (3, (5, 9)), (1, (1, 1))])
def test_agrees_with_torchvision(implementation, sampling_ratio, size, aligned, channels_last):
    """Values and gradients in float32, on RoIs of all sizes and a channel count that fills no vector."""
    count = 6 if "cuda" in implementation else 60
    features = in_layout(torch.randn(2, 37, 20, 27, generator=torch.Generator().manual_seed(3)), channels_last)
    rois = random_rois(count, (160, 216))
    weight = torch.randn(count, 37, *size, generator=torch.Generator().manual_seed(4))
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    a = roi_align(ours, rois, scale=1 / 8, output_size=size, sampling_ratio=sampling_ratio, aligned=aligned)
    b = torchvision.ops.roi_align(theirs, rois, size, 1 / 8, sampling_ratio, aligned)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


@aggregations
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradcheck(implementation, sampling_ratio, aggregation):
    features = some_features((1, 1, 4, 3)).requires_grad_()
    rois = torch.tensor([[0, *BOXES[name]] for name in ("inside", "beyond the image", "inverted", "tiny")]).double()
    options = {"sampling_ratio": sampling_ratio, "aggregation": aggregation}
    run = functools.partial(roi_align, rois=rois, scale=0.4, output_size=(2, 3), **options)
    assert torch.autograd.gradcheck(run, features, fast_mode=False)


def test_the_gradient_of_equal_samples_goes_to_the_first(implementation):
    """One bin with 2 x 2 samples at the centres of four pixels."""
    rois = torch.tensor([[0.0, 1, 1, 3, 3]])
    for values, winner in (([1.0, 1, 1, 1], 0), ([0, 2, 2, 0], 1), ([-1, -2, -1, -1], 0)):
        features = torch.zeros(1, 1, 4, 4)
        features[0, 0, 1:3, 1:3] = torch.tensor(values).view(2, 2)
        features.requires_grad_()
        out = roi_align(features, rois, scale=1.0, output_size=(1, 1), aggregation="max")
        assert out.item() == max(values)
        (gradient,) = torch.autograd.grad(out.sum(), features)
        expected = torch.zeros(2, 2).view(-1)
        expected[winner] = 1
        assert gradient[0, 0, 1:3, 1:3].flatten().tolist() == expected.tolist()
        assert gradient.sum() == 1


def test_samples_outside_count_as_zero_in_the_maximum(implementation):
    features = torch.full((1, 1, 4, 4), -1.0).requires_grad_()
    rois = torch.tensor([[0.0, -4, 0, 4, 4], [0, 0, 0, 4, 4]])
    out = roi_align(features, rois, scale=1.0, output_size=(1, 1), aggregation="max")
    assert out.flatten().tolist() == [0, -1]  # half of the first box's samples lie beyond the map
    out[0].sum().backward()
    assert features.grad.eq(0).all()


@aggregations
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@layouts
@pytest.mark.parametrize("channels", [5, 24])
def test_half_types_are_summed_in_float32(implementation, dtype, channels_last, aggregation, channels):
    rois = some_rois(dtype=torch.float32)
    half = in_layout(some_features((2, channels, 8, 7), torch.float32).to(dtype), channels_last).requires_grad_()
    exact = half.detach().float().requires_grad_()
    arguments = {"scale": 0.5, "output_size": (3, 4), "aggregation": aggregation}
    expected = roi_align(exact, rois, **arguments)
    ours = roi_align(half, rois, **arguments)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))  # one rounding, at the end
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected.backward(grad.float())
    ours.backward(grad)
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad, exact.grad.to(dtype), atol=0, rtol=2 * torch.finfo(dtype).eps)


def test_float16_is_exact_beyond_its_normal_range(implementation):
    """Subnormal, greatest, infinite and NaN values; eight of them and more, so that a vector holds them."""
    values = torch.tensor([6e-8, -6e-8, 6.1e-5, 65504.0, -65504.0, 0.0, -0.0, 1.5, torch.inf, -torch.inf, torch.nan])
    features = in_layout(values.half()[None, :, None, None].expand(1, -1, 3, 3).contiguous(), True)
    rois = torch.tensor([[0.0, 1, 1, 2, 2]])  # one sample, at the centre of the middle pixel
    out = roi_align(features, rois, scale=1.0, output_size=(1, 1), sampling_ratio=1)[0, :, 0, 0]
    torch.testing.assert_close(out[:8], values.half()[:8], atol=0, rtol=0)
    assert not out[8:].isfinite().any()


@aggregations
def test_the_memory_format_is_kept(implementation, aggregation):
    features = some_features((2, 20, 8, 7), torch.float32)
    rois = some_rois(dtype=torch.float32)
    run = functools.partial(roi_align, rois=rois, scale=0.5, output_size=(3, 4), aggregation=aggregation)
    nhwc = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    strided = torch.stack([features, features], dim=-1)[..., 1].requires_grad_()
    shifted = torch.cat([torch.zeros(1), features.flatten()])[1:].view_as(features).requires_grad_()
    expected = run(features)
    assert expected.is_contiguous()
    assert run(nhwc).is_contiguous(memory_format=torch.channels_last)
    for other in (nhwc, strided, shifted):
        torch.testing.assert_close(run(other), expected, atol=0, rtol=0)
        run(other).square().sum().backward()
        torch.testing.assert_close(other.grad, nhwc.grad, atol=1e-6, rtol=1e-6)
    assert nhwc.grad.is_contiguous(memory_format=torch.channels_last)


@aggregations
def test_nothing_in_nothing_out(implementation, aggregation):
    run = functools.partial(roi_align, scale=0.5, output_size=(3, 4), aggregation=aggregation)
    features = some_features((2, 5, 8, 7), torch.float32).requires_grad_()
    out = run(features, torch.zeros(0, 5))
    assert out.shape == (0, 5, 3, 4)
    out.sum().backward()
    assert features.grad.eq(0).all()  # in the graph, so that distributed training does not hang
    rois = torch.tensor([[0.0, 1, 1, 5, 5]])
    assert run(features[:, :0], rois).shape == (1, 0, 3, 4)
    assert run(features[:0], torch.zeros(0, 5)).shape == (0, 5, 3, 4)
    for empty in (features[:, :, :0], features[..., :0], features[:, :, :0, :0]):
        assert run(empty, rois).eq(0).all()
        run(empty, rois).sum().backward()


@aggregations
def test_one_pixel(implementation, aggregation):
    features = torch.tensor([3.0, -2]).view(1, 2, 1, 1).requires_grad_()
    rois = torch.tensor([[0.0, 0, 0, 1, 1]])
    out = roi_align(features, rois, scale=1.0, output_size=(2, 2), aggregation=aggregation)
    torch.testing.assert_close(out, features.detach().expand(1, 2, 2, 2))
    out.sum().backward()
    torch.testing.assert_close(features.grad, torch.full((1, 2, 1, 1), 4.0))


@aggregations
def test_a_non_finite_box_gives_nan_and_no_gradient(implementation, aggregation):
    features = some_features((2, 4, 8, 7), torch.float32).requires_grad_()
    good = torch.tensor([1, 1.3, 2.1, 9.7, 8.2])
    bad = torch.tensor([[1, torch.nan, 2, 9, 8], [0, 1, 2, torch.inf, 8], [0, 1, -torch.inf, 5, 8]])
    huge = torch.tensor([[0, -3e38, 2, 3e38, 8]])  # finite, but its width is not
    run = functools.partial(roi_align, scale=1.0, output_size=(2, 2), aggregation=aggregation)
    out = run(features, torch.cat([bad, good[None], huge]))
    assert out.isnan().flatten(1).all(dim=1).tolist() == [True, True, True, False, True]
    (gradient,) = torch.autograd.grad(out.sum(), features)
    (expected,) = torch.autograd.grad(run(features, good[None]).sum(), features)
    torch.testing.assert_close(gradient, expected)


@aggregations
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_huge_boxes_are_quick_and_finite(implementation, sampling_ratio, aggregation):
    """Adaptive sampling of a box of a million pixels may not visit a trillion points: it would take hours."""
    features = some_features((1, 4, 8, 7), torch.float32).requires_grad_()
    sizes = torch.tensor([1e4, 1e6, 1e9, 1e18, 1e30, 1e38])
    rois = torch.stack([torch.zeros(6), -sizes, -sizes / 2, sizes, sizes], dim=1)
    options = {"sampling_ratio": sampling_ratio, "aggregation": aggregation}
    started = time.perf_counter()
    out = roi_align(features, rois, scale=1.0, output_size=(2, 2), **options)
    out.sum().backward()
    assert out.isfinite().all() and features.grad.isfinite().all()
    assert time.perf_counter() - started < 600


def test_adaptive_sampling_of_a_large_box_is_the_mean_of_the_map_times_its_share(implementation):
    """A box of 64 x 64 around an 8 x 8 map of ones, as one bin with one point per pixel.

    Its points lie at whole coordinates, and those from -1 to 8 count as on the map: 10 of 64 an axis.
    """
    rois = torch.tensor([[0.0, -28, -28, 36, 36]])
    features = torch.ones(1, 1, 8, 8).requires_grad_()
    out = roi_align(features, rois, scale=1.0, output_size=(1, 1), sampling_ratio=0)
    torch.testing.assert_close(out, torch.full((1, 1, 1, 1), (10 / 64) ** 2))
    out.sum().backward()
    torch.testing.assert_close(features.grad.sum(), out.detach().sum())
    greatest = roi_align(-features, rois, scale=1.0, output_size=(1, 1), sampling_ratio=0, aggregation="max")
    assert greatest.item() == 0  # of a sample outside


@aggregations
def test_the_gradient_does_not_depend_on_the_number_of_threads(aggregation):
    features = some_features((2, 50, 12, 9), torch.float32).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(80, 2, generator=generator) * 18
    rois = torch.cat([torch.arange(80)[:, None] % 2, corner, corner + 8], dim=1)
    grad = torch.randn(80, 50, 4, 4, generator=generator)
    threads, gradients, outputs = torch.get_num_threads(), [], []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            outputs.append(roi_align(features, rois, scale=0.5, output_size=(4, 4), aggregation=aggregation))
            gradients += torch.autograd.grad(outputs[-1], features, grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize("index", [2.0, -1.0, torch.nan, 1e30])
@pytest.mark.parametrize("where", ["operator", "reference"])
def test_an_image_index_out_of_range_is_an_error(where, index, monkeypatch):
    use(where, monkeypatch)
    rois = torch.tensor([[0, 1, 1, 5, 5], [index, 1, 1, 5, 5]])
    with pytest.raises(ValueError, match=r"rois: row 1 has image index .*, but there are 2 images"):
        roi_align(some_features(dtype=torch.float32), rois, scale=1.0, output_size=(2, 2))


@pytest.mark.parametrize("index", [2.0, -1.0, torch.nan, 1e30])
@pytest.mark.parametrize("where", IMPLEMENTATIONS[2:])
def test_an_image_index_out_of_range_is_nan_on_cuda(where, index, monkeypatch):
    use(where, monkeypatch)
    rois = torch.tensor([[0, 1, 1, 5, 5], [index, 1, 1, 5, 5]])
    features = some_features(dtype=torch.float32).requires_grad_()
    out = roi_align(features, rois, scale=1.0, output_size=(2, 2))
    assert out[0].isfinite().all() and out[1].isnan().all()
    out.sum().backward()
    assert features.grad[1].eq(0).all() and features.grad[0].isfinite().all()


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("features", {"features": torch.zeros(3, 8, 7)}),
        ("features", {"features": torch.zeros(2, 3, 8, 7, dtype=torch.uint8)}),
        ("rois", {"rois": torch.zeros(4, 4)}),
        ("rois", {"rois": torch.zeros(4, 5, dtype=torch.float64)}),
        ("rois", {"rois": torch.zeros(4, 5, device="meta")}),
        ("scale", {"scale": 0.0}),
        ("scale", {"scale": float("nan")}),
        ("output_size", {"output_size": (0, 7)}),
        ("sampling_ratio", {"sampling_ratio": -1}),
        ("sampling_ratio", {"sampling_ratio": 5000}),
        ("aggregation", {"aggregation": "mean"}),
    ],
)
def test_errors_name_the_argument(argument, changes):
    good = {"features": torch.zeros(2, 3, 8, 7), "rois": torch.zeros(4, 5), "scale": 1.0, "output_size": (2, 2)}
    with pytest.raises(ValueError, match=f"^{argument}s?: "):
        roi_align(**(good | changes))


def test_autocast_changes_nothing():
    features, rois = some_features(dtype=torch.float32), some_rois(dtype=torch.float32)
    expected = roi_align(features, rois, scale=0.5, output_size=(2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align(features, rois, scale=0.5, output_size=(2, 2)), expected)


@needs_operators
@layouts
@pytest.mark.parametrize("maximum", [False, True], ids=["average", "max"])
def test_opcheck(channels_last, maximum):
    rois = some_rois(dtype=torch.float32)
    features = [in_layout(some_features((2, 3, side, 7), torch.float32), channels_last) for side in (8, 4)]
    for rule in (None, [4.0, 224.0, 1e-8, 2.0, 1.0]):
        options = (rois, [0.5, 0.25], 2, 3, 2, True, False, maximum, rule)
        inputs = [level.clone().requires_grad_() for level in features]
        torch.library.opcheck(torch.ops.maskrcnn.roi_align.default, (inputs, *options))
        torch.library.opcheck(torch.ops.maskrcnn.roi_align.default, (inputs, rois[:0], *options[1:]))
        grad = torch.randn(len(rois) * (2 if rule is None else 1), 3, 2, 3)
        sizes = [2, 8, 7, 4, 7]
        arguments = (grad, features if maximum else [], rois, sizes, [0.5, 0.25], 2, True, False, maximum, rule)
        torch.library.opcheck(torch.ops.maskrcnn.roi_align_backward.default, (*arguments, channels_last, False))


@needs_operators
@aggregations
def test_in_a_compiled_training_step(aggregation):
    features, rois = some_features(dtype=torch.float32).requires_grad_(), some_rois(dtype=torch.float32)

    def loss(features, rois):
        return roi_align(features, rois, scale=0.5, output_size=(2, 3), aggregation=aggregation).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for count in (10, 4):
        (ours,) = torch.autograd.grad(compiled(features, rois[:count]), features)
        (expected,) = torch.autograd.grad(loss(features, rois[:count]), features)
        torch.testing.assert_close(ours, expected)


@pytest.mark.skipif(not (torch.cuda.is_available() and "cuda" in MODULE.DEVICES), reason="no CUDA kernels here")
@aggregations
@layouts
@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
def test_on_cuda(deterministic, channels_last, aggregation):
    features = in_layout(torch.randn(2, 40, 20, 27, generator=torch.Generator().manual_seed(3)), channels_last)
    rois = random_rois(60, (160, 216))
    here, there = features.requires_grad_(), features.detach().cuda().requires_grad_()
    options = {"scale": 1 / 8, "output_size": (7, 7), "aggregation": aggregation}
    a, b = roi_align(here, rois, **options), roi_align(there, rois.cuda(), **options)
    torch.testing.assert_close(a, b.cpu(), atol=1e-4, rtol=1e-4)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        b.sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)
    a.sum().backward()
    torch.testing.assert_close(here.grad, there.grad.cpu(), atol=1e-3, rtol=1e-3)
