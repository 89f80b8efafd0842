import dataclasses
import functools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import MultiScaleRoIAlign

from maskrcnn.ops import LevelRule, reference, roi_align, roi_align_all_levels, roi_align_levels
from maskrcnn.ops.extension import COMPILED
from ops.cuda_on_cpu import operators
from ops.roi_align_cases import IMPLEMENTATIONS, align_by_the_paper, random_rois, use

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
SMALL = LevelRule(canonical_size=7.0)  # a small map then has boxes of every level
aggregations = pytest.mark.parametrize("aggregation", ["average", "max"])
needs_operators = pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    use(request.param, monkeypatch)
    return request.param


def pyramid(channels=3, images=2, size=(64, 96), dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    shapes = [(images, channels, size[0] >> k, size[1] >> k) for k in (2, 3, 4, 5)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def level_by_the_paper(box, rule):
    """FPN Eq. 1 for levels 2 to 5."""
    width, height = max(box[2] - box[0], 0), max(box[3] - box[1], 0)
    relative = math.sqrt(width * height) / rule.canonical_size + rule.epsilon
    return min(max(math.floor(rule.canonical_level + math.log2(relative)), 2), 5) - 2


@aggregations
def test_each_box_reads_its_level(implementation, aggregation):
    features = pyramid(dtype=torch.float64)
    rois = torch.cat([random_rois(12, (64, 96)), torch.tensor([[1, 3.5, 4, 70, 60]])]).double()
    ours = roi_align_levels(features, rois, scales=SCALES, output_size=(2, 3), aggregation=aggregation, rule=SMALL)
    levels = [level_by_the_paper(roi[1:].tolist(), SMALL) for roi in rois]
    assert set(levels) == {0, 1, 2, 3}
    for r, k in enumerate(levels):
        expected = align_by_the_paper(features[k], rois[r : r + 1], SCALES[k], (2, 3), aggregation=aggregation)
        torch.testing.assert_close(ours[r : r + 1], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    "rule",
    [
        LevelRule(),
        LevelRule(epsilon=1e-6),
        LevelRule(canonical_level=5, canonical_size=100),
        LevelRule(epsilon=1e-6, extent=1.0),
    ],
)
def test_levels_are_assigned_as_the_equation_says(implementation, rule):
    """Maps that hold their own number tell which one a box read. Sides at and beside boundaries, and random ones."""
    maps = [torch.full((1, 1, 32 >> k, 32 >> k), float(k)) for k in range(4)]
    side = torch.tensor([7.0, 56, 112, 224, 448, 896, 50, 100, 200, 400])
    side = torch.cat([side, side.nextafter(torch.tensor(0.0)), side.nextafter(torch.tensor(1e9)), side * 0.999])
    size = torch.cat(
        [torch.stack([side, side], dim=1), torch.rand(30 if "cuda" in implementation else 1000, 2).pow(3) * 1800 + 1]
    )
    corner = (size / 128).floor() * -64  # so that the centre, which is read, lies on the map, and the sides stay exact
    rois = torch.cat([torch.zeros(len(size), 1), corner, corner + size], dim=1)
    pooled = roi_align_levels(maps, rois, scales=SCALES, output_size=(1, 1), sampling_ratio=1, rule=rule)
    expected = reference.assign_levels(rois[:, 1:], 4, **dataclasses.asdict(rule), finest=2)
    assert pooled.flatten().round().tolist() == expected.tolist()
    assert set(expected.tolist()) == {0, 1, 2, 3}


def test_the_reference_assigns_levels_by_the_equation():
    side = torch.tensor([10.0, 111.9, 112.1, 223.9, 224.1, 447.9, 448.1, 3000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), side, side], dim=1)
    boxes = torch.cat(
        [boxes, torch.tensor([[5.0, 5, 5, 5], [9, 9, 3, 3], [-1e6, -1e6, 1e6, 1e6], [0, 0, math.nan, 1]])]
    )
    levels = reference.assign_levels(boxes, 4, canonical_level=4, canonical_size=224, epsilon=1e-8, finest=2, extent=0)
    assert levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 3, 0]


def test_the_extent_is_added_to_both_sides():
    last = torch.tensor([110.0, 111, 222, 223, 0, -1, -9])
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), last, last], dim=1)
    levels = reference.assign_levels(
        boxes, 4, canonical_level=4, canonical_size=224, epsilon=1e-6, finest=2, extent=1.0
    )
    assert levels.tolist() == [0, 1, 1, 2, 0, 0, 0]


def test_agrees_with_torchvision(implementation):
    """Values and gradients; a box on the boundary of two levels, which torchvision gives to the upper one."""
    features, rois = pyramid(8), random_rois(20, (64, 96))
    features = [level.requires_grad_() for level in features]
    rois = torch.cat([rois[rois[:, 0].argsort()], torch.tensor([[1.0, 0, 0, 56, 56]])])
    peer = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=56, canonical_level=4)
    boxes = [rois[rois[:, 0] == image, 1:] for image in (0, 1)]
    expected = peer(dict(zip("0123", features, strict=True)), boxes, [(64, 96)] * 2)
    rule = LevelRule(canonical_size=56, epsilon=1e-6)
    ours = roi_align_levels(features, rois, scales=SCALES, output_size=(7, 7), aligned=False, rule=rule)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(6))
    mine = torch.autograd.grad((ours * weight).sum(), features)
    theirs = torch.autograd.grad((expected * weight).sum(), features)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@aggregations
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
def test_all_levels_are_what_each_level_gives(implementation, channels_last, aggregation):
    features = pyramid(5)
    if channels_last:
        features = [level.contiguous(memory_format=torch.channels_last) for level in features]
    features = [level.requires_grad_() for level in features]
    rois = random_rois(7, (64, 96))
    options = {"output_size": (3, 4), "aggregation": aggregation, "round_boxes": True, "sampling_ratio": 0}
    ours = roi_align_all_levels(features, rois, scales=SCALES, **options)
    assert ours.shape == (4, 7, 5, 3, 4)
    single = [roi_align(level, rois, scale=scale, **options) for level, scale in zip(features, SCALES, strict=True)]
    torch.testing.assert_close(ours, torch.stack(single), atol=0, rtol=0)
    assert all(a.stride() == b.stride() for a, b in zip(ours, single, strict=True))
    mine = torch.autograd.grad(ours.square().sum(), features)
    theirs = torch.autograd.grad(torch.stack(single).square().sum(), features)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@aggregations
@pytest.mark.parametrize("pool", [roi_align_all_levels, functools.partial(roi_align_levels, rule=LevelRule(4, 8.0))])
def test_gradcheck(implementation, pool, aggregation):
    generator = torch.Generator().manual_seed(7)
    features = [torch.randn(1, 1, s, s, generator=generator).double().requires_grad_() for s in (3, 2)]
    rois = torch.tensor([[0, 1.0, 2, 9, 8], [0, 0, 0, 13, 15], [0, 4, 4, 6, 7]], dtype=torch.float64)
    run = functools.partial(pool, scales=SCALES[:2], output_size=(2, 2), aggregation=aggregation)
    assert torch.autograd.gradcheck(lambda *levels: run(levels, rois), features, fast_mode=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types(implementation, dtype):
    features, rois = pyramid(8, dtype=dtype), random_rois(9, (64, 96))
    run = functools.partial(roi_align_levels, rois=rois, scales=SCALES, output_size=(2, 2), rule=SMALL)
    torch.testing.assert_close(run(features), run([level.float() for level in features]).to(dtype))


def test_levels_of_mixed_layout(implementation):
    """The first level decides the output's, also where another is one pixel and so in both layouts."""
    features, rois = pyramid(4, size=(32, 32)), random_rois(9, (32, 32))
    run = functools.partial(roi_align_levels, rois=rois, scales=SCALES, output_size=(2, 2), rule=SMALL)
    expected = run(features)
    mixed = [
        level.contiguous(memory_format=torch.channels_last) if k % 2 == 0 else level for k, level in enumerate(features)
    ]
    mixed = [level.requires_grad_() for level in mixed]
    torch.testing.assert_close(run(mixed), expected, atol=0, rtol=0)
    assert run(mixed).is_contiguous(memory_format=torch.channels_last)
    run(mixed).sum().backward()
    assert all(level.grad.shape == level.shape for level in mixed)


@aggregations
def test_nothing_and_the_impossible(implementation, aggregation):
    features = [level.requires_grad_() for level in pyramid()]
    run = functools.partial(roi_align_levels, scales=SCALES, output_size=(2, 2), aggregation=aggregation)
    none = run(features, torch.zeros(0, 5))
    assert none.shape == (0, 3, 2, 2)
    assert roi_align_all_levels(features, torch.zeros(0, 5), scales=SCALES, output_size=(2, 2)).shape == (4, 0, 3, 2, 2)
    gradients = torch.autograd.grad(none.sum(), features)  # no level drops out of the graph
    assert all(gradient.eq(0).all() for gradient in gradients)
    odd = torch.tensor([[0, math.nan, 0, 9, 9], [1, 0, 0, math.inf, 9], [0, -1e30, -1e30, 1e30, 1e30], [1, 9, 9, 2, 2]])
    pooled = run(features, odd)
    assert pooled.isnan().flatten(1).all(dim=1).tolist() == [True, True, False, False]
    assert pooled[2:].isfinite().all()
    for gradient in torch.autograd.grad(pooled.sum(), features):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("features", {"features": []}),
        ("features", {"features": pyramid() * 5}),
        ("features", {"features": [*pyramid()[:3], torch.zeros(2, 4, 2, 3)]}),
        ("features", {"features": [*pyramid()[:3], torch.zeros(1, 3, 2, 3)]}),
        ("features", {"features": [*pyramid()[:3], pyramid()[3].double()]}),
        ("features", {"features": [*pyramid()[:3], torch.zeros(3, 2, 3)]}),
        ("rois", {"features": [*pyramid()[:3], pyramid()[3].to("meta")]}),
        ("scales", {"scales": SCALES[:3]}),
        ("scales", {"scales": [*SCALES[:3], -1.0]}),
        ("scales", {"scales": [*SCALES[:3], math.inf]}),
    ],
)
def test_errors_name_the_argument(argument, changes):
    good = {"features": pyramid(), "rois": torch.zeros(4, 5), "scales": SCALES, "output_size": (2, 2)}
    for pool in (roi_align_levels, roi_align_all_levels):
        with pytest.raises(ValueError, match=f"^{argument}: "):
            pool(**(good | changes))


FORWARD = (pyramid(), torch.zeros(4, 5), SCALES, 2, 2, 2, True, False, False, None)
BACKWARD = (torch.zeros(16, 3, 2, 2), [], torch.zeros(4, 5), [2, 16, 24, 8, 12, 4, 6, 2, 3], SCALES, 2, True, False)
BACKWARD += (False, None, False, False)


@pytest.mark.parametrize("where", ["operator", "cuda source"])
@pytest.mark.parametrize(
    ("message", "good", "changes"),
    [
        ("features: no level", FORWARD, {0: []}),
        ("features: 20 levels", FORWARD, {0: pyramid() * 5, 2: SCALES * 5}),
        ("features: shape", FORWARD, {0: [*pyramid()[:3], torch.zeros(2, 3, 2)]}),
        ("features: shape", FORWARD, {0: [*pyramid()[:3], torch.zeros(2, 4, 2, 3)]}),
        ("features: dtype Double", FORWARD, {0: [*pyramid()[:3], pyramid()[3].double()]}),
        ("features: dtype Int", FORWARD, {0: [level.int() for level in pyramid()]}),
        ("rois: shape", FORWARD, {1: torch.zeros(4, 4)}),
        ("rois: dtype", FORWARD, {1: torch.zeros(4, 5, dtype=torch.float64)}),
        ("scales: 3", FORWARD, {2: SCALES[:3]}),
        ("scales: nan", FORWARD, {2: [*SCALES[:3], math.nan]}),
        ("output_size", FORWARD, {3: 0}),
        ("sampling_ratio: -1", FORWARD, {5: -1}),
        ("sampling_ratio: 1025", FORWARD, {5: 1025}),
        ("level_rule: 2", FORWARD, {9: [4.0, 224.0]}),
        ("grad: shape", BACKWARD, {0: torch.zeros(16, 3, 2)}),
        ("grad: 4 rows; expected 16", BACKWARD, {0: torch.zeros(4, 3, 2, 2)}),
        ("features: given", BACKWARD, {1: pyramid()}),
        ("features: other sizes", BACKWARD, {8: True}),
        ("features: shape", BACKWARD, {8: True, 1: pyramid(4)}),
        ("features: dtype", BACKWARD, {8: True, 1: pyramid(dtype=torch.float64)}),
        ("rois: dtype", BACKWARD, {2: torch.zeros(4, 5, dtype=torch.float64)}),
        ("features: 0 levels", BACKWARD, {3: [2]}),
        ("sizes: level 3", BACKWARD, {3: [2, 16, 24, 8, 12, 4, 6, -2, 3]}),
        ("sizes: -2 images", BACKWARD, {3: [-2, 16, 24, 8, 12, 4, 6, 2, 3]}),
    ],
)
def test_the_operators_check_for_themselves(where, message, good, changes):
    if where == "operator" and not COMPILED:
        pytest.skip("the operators are not compiled")
    library = torch.ops.maskrcnn if where == "operator" else operators()
    run = library.roi_align if good is FORWARD else library.roi_align_backward
    run(*good)
    with pytest.raises(ValueError, match=message):
        run(*(changes.get(k, value) for k, value in enumerate(good)))


class Calls(TorchDispatchMode):
    """The arguments of each call of the backward operator."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "roi_align_backward" in str(function):
            self.seen.append(args)
        return function(*args, **(kwargs or {}))


@needs_operators
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_gradient_is_deterministic_on_request(deterministic):
    features = [level.requires_grad_() for level in pyramid()]
    out = roi_align_levels(features, random_rois(4, (64, 96)), scales=SCALES, output_size=(2, 2))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        with Calls() as calls:
            out.sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)
    assert [call[-1] for call in calls.seen] == [deterministic]


@needs_operators
@aggregations
def test_the_gradient_does_not_depend_on_the_number_of_threads(aggregation):
    features = [level.requires_grad_() for level in pyramid(50)]
    threads, answers = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            for pool in (roi_align_all_levels, functools.partial(roi_align_levels, rule=SMALL)):
                out = pool(
                    features, random_rois(30, (64, 96)), scales=SCALES, output_size=(3, 3), aggregation=aggregation
                )
                answers.append([out, *torch.autograd.grad(out.square().sum(), features)])
    finally:
        torch.set_num_threads(threads)
    for k in range(2, len(answers)):
        assert all(map(torch.equal, answers[k], answers[k % 2]))


@needs_operators
@aggregations
@pytest.mark.parametrize("dynamic", [False, True])
def test_in_a_compiled_training_step(dynamic, aggregation):
    features = [level.requires_grad_() for level in pyramid()]
    rois = random_rois(10, (64, 96))

    def loss(features, rois):
        one = roi_align_levels(features, rois, scales=SCALES, output_size=(2, 3), aggregation=aggregation)
        every = roi_align_all_levels(features, rois, scales=SCALES, output_size=(3, 2), aggregation=aggregation)
        return one.square().sum() + every.square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for count in (10, 4) if dynamic else (10,):
        ours = torch.autograd.grad(compiled(features, rois[:count]), features)
        expected = torch.autograd.grad(loss(features, rois[:count]), features)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b)
