import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import roi_align

from maskrcnn.checkpoint.importers import recognise
from maskrcnn.config import load_config
from maskrcnn.conventions import OURS
from maskrcnn.engine.state import load_weights
from maskrcnn.modeling import build_model
from maskrcnn.modeling.backbones import ResNet
from maskrcnn.modeling.layers import FeatureSpec, RoISpec
from maskrcnn.modeling.matching import Matcher
from maskrcnn.modeling.roi_heads import C4RoIHeads, PooledBoxHead
from maskrcnn.structures import Detections, Instances, Proposals, RoISamples, Sample
from maskrcnn.structures.masks import BitmapMasks

CONFIG, WITHOUT_MASKS = "_base_/models/mask_rcnn_r50_c4.yaml", "_base_/models/faster_rcnn_r50_c4.yaml"
SMALL = {
    "BACKBONE.DEPTH": 18,
    "BACKBONE.WIDTH": 16,
    "BACKBONE.FREEZE_AT": 1,
    "ROI_HEADS.SAMPLER.BATCH_SIZE_PER_IMAGE": 16,
    "ROI_HEADS.MASK_HEAD.CONV_DIM": 8,
    "PROPOSALS.POST_NMS_TOPK_TRAIN": 50,
    "PROPOSALS.POST_NMS_TOPK_TEST": 20,
}
IN_PAPER = {"ROI_HEADS.POOLER.SIZE": 7, "ROI_HEADS.ROI_STAGE.STRIDE": 1}
SIZES = [(70, 90), (64, 64)]


def make_model(options=(), config=CONFIG):
    torch.manual_seed(0)
    options = {"NUM_CLASSES": 3, **SMALL, **dict(options)}
    if config == WITHOUT_MASKS:
        del options["ROI_HEADS.MASK_HEAD.CONV_DIM"]
    return build_model(load_config(config, [f"MODEL.{key}={value}" for key, value in options.items()]))


def random_boxes(count: int, size: tuple[int, int]) -> torch.Tensor:
    corner = torch.rand(count, 2) * torch.tensor([size[1] * 0.5, size[0] * 0.5])
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 30], dim=1)


def make_targets(objects: int, size: tuple[int, int]) -> Instances:
    boxes = random_boxes(objects, size)
    masks = torch.zeros(objects, *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1 + 2 : y2, x1:x2] = True
    return Instances(boxes, torch.arange(objects) % 3, size, BitmapMasks.from_bitmaps(masks))


def make_batch(*objects: int) -> list[Sample]:
    return [
        Sample(torch.randint(0, 256, (3, *size), dtype=torch.uint8), i, size, make_targets(count, size))
        for i, (size, count) in enumerate(zip(SIZES, objects, strict=True))
    ]


def torchvision_trunk(stride: int) -> nn.Module:
    torch.manual_seed(0)
    peer = torchvision.models.resnet50(weights=None)
    for name, norm in peer.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
            if name.endswith("bn3"):
                nn.init.constant_(norm.weight, 0.2)
    with torch.no_grad():
        peer.train()(torch.randn(2, 3, 64, 64))
    peer.layer4[0].conv2.stride = peer.layer4[0].downsample[0].stride = (stride, stride)
    return peer.eval()


@pytest.mark.parametrize(("size", "stride", "more"), [(14, 2, {}), (7, 1, IN_PAPER)], ids=["released", "paper"])
@torch.inference_mode()
def test_scores_and_masks_are_those_of_the_figure(size, stride, more):
    """Fig. 4 left, put together from torchvision's parts: RoIAlign, layer4, the average, and the mask branch."""
    peer = torchvision_trunk(stride)
    model = make_model({**more, "BACKBONE.DEPTH": 50, "BACKBONE.WIDTH": 64}).eval()
    missing = load_weights(model, recognise(peer.state_dict()), strict=False).missing
    assert missing and all(not n.startswith(("backbone", "roi_heads.roi_stage")) for n in missing)
    heads = model.roi_heads
    x = {"res4": torch.randn(2, 1024, 5, 6)}
    boxes = [random_boxes(4, SIZES[0]), random_boxes(3, SIZES[1])]
    pooled = roi_align(x["res4"], boxes, size, 1 / 16, sampling_ratio=2, aligned=True)
    stage = peer.layer4(pooled)
    assert stage.shape == (7, 2048, 7, 7)

    candidates = heads.score(x, [Proposals(b, torch.ones(len(b)), s) for b, s in zip(boxes, SIZES, strict=True)])
    logits = heads.box_head.logits(stage.flatten(2).sum(2) / 49)
    torch.testing.assert_close(torch.cat([c.scores for c in candidates]), logits.softmax(1)[:, :3])
    assert [len(c.boxes) for c in candidates] == [4, 3]

    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    detections = [
        Detections(b, torch.ones(len(b)), label, s)
        for b, label, s in zip(boxes, labels.split([4, 3]), SIZES, strict=True)
    ]
    masks = heads.finish(heads.on_boxes(x, detections), detections)
    deconv, predictor = heads.mask_head.deconv, heads.mask_head.predictor
    assert deconv.weight.shape[0] == 2048 and len(heads.mask_head.convs) == 0
    expected = predictor(deconv(stage).relu())[torch.arange(7), labels].sigmoid()
    assert expected.shape == (7, 14, 14)
    torch.testing.assert_close(torch.cat([d.masks for d in masks]), expected, rtol=1e-4, atol=1e-5)


def test_in_training_the_stage_runs_once_and_the_mask_head_takes_the_foreground():
    model = make_model({"BACKBONE.NORM": "GN"})
    heads, x = model.roi_heads, {"res4": torch.randn(2, 64, 5, 6)}
    targets = [make_targets(2, SIZES[0]), make_targets(1, SIZES[1])]
    samples = [
        RoISamples(
            torch.cat([random_boxes(1, size), t.boxes + 1, random_boxes(1, size)]),
            torch.cat([torch.tensor([3]), t.labels, torch.tensor([3])]),
            torch.tensor([-1, *range(len(t)), -1]),
            size,
            3,
        )
        for t, size in zip(targets, SIZES, strict=True)
    ]
    heads.sample = lambda proposals, targets: samples
    runs = []
    heads.roi_stage.register_forward_hook(lambda module, inputs, output: runs.append(len(output)))
    losses = heads.losses(x, [], targets)
    assert runs == [4 + 3]
    foreground = [s.foreground() for s in samples]
    alone = heads.mask_head(heads.roi_stage(heads.pooler(x, [s.boxes for s in foreground])))
    expected = heads.mask_head.losses(alone, foreground, targets)
    assert losses["loss_mask"].item() == pytest.approx(expected["loss_mask"].item(), rel=1e-4)
    assert set(losses) == {"loss_cls", "loss_box", "loss_mask"}


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", ["objects", "one image without", "no objects", "no match"])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "GN"])
@pytest.mark.parametrize(
    ("more", "config"), [({}, CONFIG), (IN_PAPER, CONFIG), ({}, WITHOUT_MASKS)], ids=["mask", "paper", "faster"]
)
def test_every_parameter_gets_a_gradient(more, config, norm, case, autocast):
    model = make_model({**more, "BACKBONE.NORM": norm}, config)
    if case == "no match":
        model.proposals.matcher = model.roi_heads.matcher = Matcher(positive=2.0, negative=2.0)
    objects = {"one image without": (2, 0), "no objects": (0, 0)}.get(case, (2, 1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = model(make_batch(*objects))
    sum(value.float() for value in losses.values()).backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None or not p.grad.isfinite().all()] == []
    assert ("loss_mask" in losses) == (config == CONFIG)


def test_without_proposals_and_detections():
    model = make_model().eval()
    nn.init.constant_(model.proposals.objectness.bias, float("nan"))
    with torch.inference_mode():
        found = model(make_batch(0, 0))
    assert [len(d) for d in found] == [0, 0] and found[0].masks.shape == (0, 14, 14)
    none = [Proposals(torch.zeros(0, 4), torch.zeros(0), size) for size in SIZES]
    nothing = [make_targets(0, size) for size in SIZES]
    losses = model.roi_heads.losses({"res4": torch.randn(2, 64, 5, 6)}, none, nothing)
    sum(losses.values()).backward()
    assert all(value == 0 for value in losses.values())
    assert all(p.grad is not None and not p.grad.any() for p in model.roi_heads.parameters())


def test_detections_are_in_the_frame_of_the_file_with_masks():
    model = make_model({"ROI_HEADS.SCORE_THRESH_TEST": 0.0}).eval()
    batch = make_batch(0, 0)
    with torch.inference_mode():
        found = model(batch)
    for detections, sample in zip(found, batch, strict=True):
        assert detections.size == sample.original_size and len(detections) > 0
        assert detections.masks.shape == (len(detections), 14, 14)


def test_the_average_is_over_all_cells():
    head = PooledBoxHead(RoISpec(4, (7, 7)), 3)
    x = torch.randn(2, 4, 7, 7)
    logits, deltas = head(x)
    average = torch.stack([x[:, :, i, j] for i in range(7) for j in range(7)]).sum(0) / 49
    torch.testing.assert_close(logits, average @ head.logits.weight.t() + head.logits.bias)
    assert deltas.shape == (2, 3, 4)


def test_the_stages_blocks_can_be_recomputed_and_its_weights_are_placed():
    model = make_model()
    assert model.recomputable()[-2:] == list(model.roi_heads.roi_stage)
    assert model.roi_heads.heads[0] is model.roi_heads.roi_stage
    assert model.place("backbone.stages.res5.0.conv1.weight") == "roi_heads.roi_stage.0.conv1.weight"
    assert all(model.place(name) == name for name in model.state_dict())


def test_what_does_not_go_together_is_refused():
    section = {"POOLER": {"IN_FEATURES": ["a"], "LEVELS": "all"}}
    specs = {"a": FeatureSpec(8, 8), "b": FeatureSpec(8, 16)}
    with pytest.raises(ValueError, match=r"Conv2d has no roi_stage\(\)"):
        C4RoIHeads.from_config(section, specs, 3, 100, OURS, nn.Conv2d(1, 1, 1))
    section["POOLER"]["IN_FEATURES"] = ["a", "b"]
    with pytest.raises(ValueError, match="POOLER.LEVELS: the RoI stage takes one level"):
        C4RoIHeads.from_config(section, specs, 3, 100, OURS, ResNet(depth=18, out_features=["res4"]))
    with pytest.raises(ValueError, match="leaves no stage to run on RoIs"):
        make_model({"BACKBONE.OUT_FEATURES": "[res4, res5]"})


def test_compiled_parts_answer_alike():
    model = make_model({"ROI_HEADS.SCORE_THRESH_TEST": 0.0}).eval()
    batch = make_batch(0, 0)
    with torch.inference_mode():
        expected = model(batch)
        model.compile_parts(backend="eager")
        found = model(batch)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.masks, other.masks, rtol=1e-3, atol=1e-4)


def test_a_few_steps_lower_the_loss():
    model = make_model({"BACKBONE.NORM": "GN", "BACKBONE.FREEZE_AT": 0})
    batch = make_batch(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    totals = []
    for _ in range(12):
        total = sum(model(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-3:]) < 0.8 * sum(totals[:3])
