import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from maskrcnn.conventions import MASKRCNN_BENCHMARK, MMDET
from maskrcnn.modeling import Model, build_model
from maskrcnn.modeling.anchors import AnchorGrid
from maskrcnn.modeling.backbones import FPN, ResNet
from maskrcnn.modeling.generalized_rcnn import GeneralizedRCNN
from maskrcnn.modeling.poolers import RoIPooler
from maskrcnn.modeling.roi_heads import FCNMaskHead, StandardRoIHeads, TwoFCBoxHead
from maskrcnn.modeling.rpn import RPN
from maskrcnn.modeling.sync_batch_norm import SyncBatchNorm2d
from maskrcnn.structures import Detections, Instances, Sample
from maskrcnn.structures.masks import BitmapMasks


@pytest.fixture
def model() -> GeneralizedRCNN:
    """Built by hand, as in a notebook: no config."""
    torch.manual_seed(0)
    backbone = ResNet(depth=18, norm="GN", freeze_at=0)
    neck = FPN(backbone.specs, channels=16)
    box_pooler, mask_pooler = RoIPooler(neck.specs), RoIPooler(neck.specs, size=14)
    heads = StandardRoIHeads(
        3,
        box_pooler=box_pooler,
        box_head=TwoFCBoxHead(box_pooler.roi, 3, fc_dim=32),
        mask_pooler=mask_pooler,
        mask_head=FCNMaskHead(mask_pooler.roi, 3, num_convs=1, conv_dim=16),
        score_thresh_test=0.0,
    )
    rpn = RPN(neck.specs, anchors=AnchorGrid(sizes=((8,), (16,), (32,), (64,), (128,))))
    return GeneralizedRCNN(backbone, neck, rpn, heads)


def make_sample(height: int, width: int, objects: int, original=None) -> Sample:
    corner = torch.rand(objects, 2) * torch.tensor([width / 2, height / 2])
    boxes = torch.cat([corner, corner + torch.tensor([width / 3, height / 3])], dim=1)
    masks = torch.zeros(objects, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    targets = Instances(boxes, torch.randint(0, 3, (objects,)), (height, width), BitmapMasks.from_bitmaps(masks))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return Sample(image, image_id=height, original_size=original or (height, width), targets=targets)


@pytest.mark.parametrize("objects", [(2, 3), (0, 3), (0, 0)], ids=["all", "one without", "none"])
def test_every_parameter_gets_a_finite_gradient(model, objects):
    batch = [make_sample(64, 90, objects[0]), make_sample(50, 40, objects[1])]
    losses = model(batch)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "loss_mask"}
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_inclusive_boxes_are_resized_by_their_last_pixels(model):
    """A box of the pixels 10..29, 20..59 in an image that was enlarged twice: 5..14.5, 10..29.5 in the file."""
    found = Detections(torch.tensor([[10.0, 20, 30, 60]]), torch.ones(1), torch.zeros(1).long(), (100, 200))
    assert model.in_file(found, (50, 100)).boxes.tolist() == [[5, 10, 15, 30]]
    model.conventions = MASKRCNN_BENCHMARK
    in_file = model.in_file(found, (50, 100))
    assert in_file.boxes.tolist() == [[5, 10, 15.5, 30.5]] and in_file.size == (50, 100)
    assert len(model.in_file(found[torch.zeros(0).long()], (50, 100))) == 0


def test_images_are_padded_as_the_library_did(model):
    c4 = ResNet(depth=18, out_features=["res4"])
    parts = (c4, None, model.proposals, model.roi_heads)
    assert GeneralizedRCNN(*parts).divisibility == 1
    assert GeneralizedRCNN(*parts, conventions=MASKRCNN_BENCHMARK).divisibility == 1
    padded = GeneralizedRCNN(*parts, conventions=MMDET)
    assert padded.image_batch([make_sample(33, 64, 0)]).tensor.shape == (1, 3, 64, 64)
    assert model.divisibility == 32  # its FPN's


def test_a_few_steps_lower_the_loss(model):
    torch.manual_seed(0)
    batch = [make_sample(64, 64, 2)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    totals = []
    for _ in range(12):
        total = sum(model(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-3:]) < 0.7 * sum(totals[:3])


@pytest.mark.parametrize("size", [(33, 64), (1, 1), (17, 300)])
def test_detections_are_in_the_frame_of_the_file(model, size):
    model.eval()
    with torch.inference_mode():
        (detections,) = model([make_sample(*size, 0, original=(2 * size[0], 3 * size[1]))])
    assert detections.size == (2 * size[0], 3 * size[1])
    assert detections.masks.shape == (len(detections), 28, 28) and len(detections) <= 100
    limit = torch.tensor([3.0 * size[1], 2.0 * size[0]]).repeat(2)
    assert (detections.boxes >= 0).all() and (detections.boxes <= limit).all()
    assert ((detections.masks >= 0) & (detections.masks <= 1)).all()


def test_the_batch_changes_an_images_answer_by_rounding_only(model):
    model.eval()
    small, large = make_sample(64, 64, 0), make_sample(64, 64, 0)
    with torch.inference_mode():
        together, (alone,) = model([small, large]), model([large])
    torch.testing.assert_close(together[1].boxes, alone.boxes, rtol=1e-3, atol=1e-2)


def test_a_batch_without_proposals(model):
    model.eval()
    torch.nn.init.constant_(model.proposals.objectness.bias, float("nan"))
    with torch.inference_mode():
        (detections,) = model([make_sample(64, 64, 0)])
    assert len(detections) == 0 and detections.masks.shape == (0, 28, 28)


def test_targets_are_needed_in_training(model):
    sample = Sample(torch.zeros(3, 32, 32, dtype=torch.uint8), image_id=7, original_size=(32, 32))
    with pytest.raises(ValueError, match="image 7 has no targets"):
        model([sample])


def test_the_class_count_must_be_known():
    with pytest.raises(ValueError, match="NUM_CLASSES is 0"):
        build_model({"MODEL": {"NUM_CLASSES": 0}})


def test_the_rows_of_each_class_are_named(model):
    state = model.state_dict()
    rows = model.class_rows()
    assert set(rows) == {
        f"roi_heads.{layer}.{kind}"
        for layer in ("box_head.logits", "box_head.deltas", "mask_head.predictor")
        for kind in ("weight", "bias")
    }
    for name, per_class in rows.items():
        assert len(state[name]) == per_class * 3 + ("logits" in name)


def test_compiled_parts_answer_alike_and_compile_once_for_all_sizes(model):
    sizes = [[(200, 260)], [(256, 200), (130, 140)], [(320, 192)], [(192, 256), (256, 192), (60, 300)]]
    batches = [[make_sample(h, w, 2) for h, w in batch] for batch in sizes]
    counter, counts, found = CompileCounterWithBackend("eager"), [], []
    model.eval()
    with torch.inference_mode():
        expected = [model(batch) for batch in batches]
        names = set(model.state_dict())
        model.compile_parts(backend=counter)
        assert set(model.state_dict()) == names
        for batch in batches:
            found.append(model(batch))
            counts.append(counter.frame_count)
    parts = len(model.compilable())
    assert counts[0] == parts == 5
    assert counts[1] <= 2 * parts  # torch.compile takes batches of one apart from larger ones
    if not torch.__version__.startswith("2.10."):  # which compiles one of them once more
        assert counts[3] == counts[2] == counts[1]
    assert counts[3] <= 2 * parts
    for one, other in zip(sum(expected, []), sum(found, []), strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.masks, other.masks, rtol=1e-3, atol=1e-4)


def test_recomputed_blocks_train_to_the_same_bits(model):
    batch, twin = [make_sample(64, 90, 2)], copy.deepcopy(model)
    twin.checkpoint_parts()
    assert len(twin.recomputable()) == 1 + 8  # the stem and the blocks of ResNet-18
    assert list(twin.state_dict()) == list(model.state_dict())
    for one in (model, twin):
        torch.manual_seed(0)
        sum(one(batch).values()).backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name


def test_a_backbone_without_blocks_is_named(model):
    model.backbone = torch.nn.Conv2d(3, 8, 1)
    with pytest.raises(ValueError, match=r"GRADIENT_CHECKPOINTING: the backbone Conv2d has no blocks\(\)"):
        model.checkpoint_parts()


def test_frozen_norms_rest_in_training():
    norm = SyncBatchNorm2d(4)
    frozen = torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 4, 1), SyncBatchNorm2d(4))
    model = Model((0, 0, 0), (1, 1, 1))
    model.trained, model.frozen = norm, frozen.requires_grad_(False)
    model.unweighted = torch.nn.BatchNorm2d(4, affine=False)
    model.train()
    assert [part.training for part in (model, norm, *frozen, model.unweighted)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(frozen[0](x), x / (1 + 1e-5) ** 0.5)  # by the statistics that it has
    assert frozen[0].num_batches_tracked == 0 and torch.equal(frozen[0].running_mean, torch.zeros(4))
    assert not any(part.training for part in model.eval().modules())


def test_compiled_parts_train(model):
    batch = [make_sample(64, 90, 2)]
    model.compile_parts(backend="aot_eager")
    sum(model(batch).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
