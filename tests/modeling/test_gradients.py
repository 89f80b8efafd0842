"""What training in several processes needs of every step: a gradient for each parameter, whatever the images hold."""

from functools import partial

import pytest
import torch
import torch.multiprocessing as mp
from processes import in_processes
from torch.nn.parallel import DistributedDataParallel

from maskrcnn.config import load_config
from maskrcnn.modeling import build_model
from maskrcnn.modeling.matching import Matcher
from maskrcnn.structures import BitmapMasks, Instances, Sample

SMALL = {
    "MODEL.NUM_CLASSES": "3",
    "MODEL.BACKBONE.DEPTH": "18",
    "MODEL.BACKBONE.WIDTH": "8",
    "MODEL.BACKBONE.FREEZE_AT": "1",
    "MODEL.NECK.CHANNELS": "8",
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": "8",
    "MODEL.ROI_HEADS.MASK_HEAD.CONV_DIM": "8",
}
FASTER = {"MODEL.ROI_HEADS.MASK_HEAD.NAME": ""}
KEYPOINTS = {
    "MODEL.ROI_HEADS.KEYPOINT_HEAD.NAME": "FCNKeypointHead",
    "MODEL.ROI_HEADS.KEYPOINT_HEAD.NUM_CONVS": "2",
    "MODEL.ROI_HEADS.KEYPOINT_HEAD.CONV_DIM": "8",
    "MODEL.ROI_HEADS.KEYPOINT_POOLER.SIZE": "14",
}
NOTHING_MATCHES = Matcher(positive=2.0, negative=2.0)


def small_model(norm, more=()):
    torch.manual_seed(0)
    norms = {f"MODEL.{part}.NORM": norm for part in ("BACKBONE", "NECK", "ROI_HEADS.MASK_HEAD")}
    options = SMALL | norms | dict(more)
    if "MODEL.NECK.NAME" in options:
        options = {key: value for key, value in options.items() if "NECK" not in key or key.endswith(".NAME")}
    if "MODEL.ROI_HEADS.MASK_HEAD.NAME" in options:
        options = {key: value for key, value in options.items() if "MASK_HEAD" not in key or key.endswith(".NAME")}
    cfg = load_config("_base_/models/mask_rcnn_r50_fpn.yaml", [f"{key}={value}" for key, value in options.items()])
    return build_model(cfg).to(memory_format=torch.channels_last)


def make_sample(size, objects):
    height, width = size
    boxes = torch.tensor([[4.0, 6.0, 30.0, 28.0], [20.0, 10.0, 40.0, 40.0]])[:objects]
    masks = BitmapMasks.from_bitmaps(torch.ones(objects, height, width, dtype=torch.bool))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    points = torch.tensor([25.0, 20, 2]).repeat(objects, 17, 1)
    return Sample(image, height, size, Instances(boxes, torch.arange(objects), size, masks, points))


def backward(model, batch, *, autocast=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = model(batch)
    assert all(value.isfinite() for value in losses.values()), losses
    sum(value.float() for name, value in losses.items() if name.startswith("loss_")).backward()
    return losses


def without_gradient(model):
    return [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", ["objects", "one image without", "no objects", "no match"])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "GN"])
@pytest.mark.parametrize(
    "more", [{}, FASTER, FASTER | KEYPOINTS, KEYPOINTS], ids=["mask", "faster", "keypoint", "mask and keypoint"]
)
def test_every_parameter_gets_a_gradient(more, norm, case, autocast):
    model = small_model(norm, more)
    if case == "no match":
        model.proposals.matcher = model.roi_heads.matcher = NOTHING_MATCHES
    objects = {"one image without": (2, 0), "no objects": (0, 0)}.get(case, (2, 1))
    losses = backward(model, [make_sample((48, 64), objects[0]), make_sample((40, 50), objects[1])], autocast=autocast)
    assert without_gradient(model) == []
    assert ("loss_mask" in losses) == ("MODEL.ROI_HEADS.MASK_HEAD.NAME" not in more)
    assert ("loss_keypoint" in losses) == ("MODEL.ROI_HEADS.KEYPOINT_HEAD.NAME" in more)
    if case in ("no objects", "no match"):
        assert losses["loss_box"] == 0 and losses["loss_rpn_box"] == 0 and losses["loss_cls"] > 0
        assert losses.get("loss_keypoint", 0) == 0


UNREAD = {
    "the RPN's": {
        "MODEL.PROPOSALS.IN_FEATURES": "[p3,p4]",
        "MODEL.PROPOSALS.ANCHORS.SIZES": "[[32],[64]]",
        "MODEL.ROI_HEADS.BOX_POOLER.IN_FEATURES": "[p3,p4]",
        "MODEL.ROI_HEADS.MASK_POOLER.IN_FEATURES": "[p3,p4]",
    },
    "the trunk's": {
        "MODEL.NECK.NAME": "",
        "MODEL.BACKBONE.OUT_FEATURES": "[res3,res4,res5]",
        "MODEL.PROPOSALS.IN_FEATURES": "[res4]",
        "MODEL.PROPOSALS.ANCHORS.SIZES": "[[32]]",
        "MODEL.ROI_HEADS.BOX_POOLER.IN_FEATURES": "[res4]",
        "MODEL.ROI_HEADS.MASK_POOLER.IN_FEATURES": "[res4]",
    },
}


@pytest.mark.parametrize("more", UNREAD.values(), ids=UNREAD)
@pytest.mark.parametrize("objects", [2, 0])
def test_a_level_that_no_stage_reads_has_a_gradient_of_zero(more, objects):
    """Two processes would wait for it in vain (DistributedDataParallel, second step)."""
    model = small_model("GN", more)
    backward(model, [make_sample((48, 64), objects)])
    assert without_gradient(model) == []
    unread = ("neck.output.res2.", "neck.output.res5.", "backbone.stages.res5.")
    gradients = {name: p.grad for name, p in model.named_parameters() if name.startswith(unread) and p.requires_grad}
    silent = [name for name, gradient in gradients.items() if not gradient.any()]
    assert silent and silent == [n for n in gradients if "NECK.NAME" in str(more) or n.startswith("neck.")]


def test_levels_that_are_all_read_cost_nothing():
    model = small_model("GN")
    features = {name: torch.zeros(1, requires_grad=True) for name in model.neck.specs}
    losses = {"loss_cls": torch.zeros(())}
    assert model.with_all_levels(losses, features) is losses
    assert model.with_all_levels(losses, {"p9": torch.ones(1, requires_grad=True)})["loss_cls"].requires_grad


def train_in_process(rank, more=()):
    model = small_model("SyncBN", more)
    parallel = DistributedDataParallel(model)  # without find_unused_parameters
    for objects in ((2, 0), (0, 2), (0, 0)):  # by rank, step by step
        backward(parallel, [make_sample((48 + 8 * rank, 64), objects[rank])])
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}, without_gradient(model)


@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")
@pytest.mark.parametrize("more", [{}, UNREAD["the RPN's"]], ids=["all levels read", "not all"])
def test_processes_without_objects_keep_in_step(more):
    (first, missing), (second, also_missing) = in_processes(2, partial(train_in_process, more=more))
    assert missing == also_missing == []
    assert all(torch.equal(value, second[name]) for name, value in first.items())
