import math

import pytest
import torch
import torch.nn.functional as F

from maskrcnn.modeling.layers import RoISpec
from maskrcnn.modeling.roi_heads import ConvFCBoxHead, FCNMaskHead, MLPMaskHead, TwoFCBoxHead
from maskrcnn.structures import Detections, Instances, Proposals, RoISamples
from maskrcnn.structures.masks import BitmapMasks

SIZE = (40, 40)


def make_samples(num_classes: int = 3):
    targets = Instances(
        torch.tensor([[4.0, 4, 20, 20], [10, 10, 36, 30]]),
        torch.tensor([2, 0]),
        SIZE,
        BitmapMasks.from_bitmaps(torch.stack([rectangle(4, 4, 20, 20), rectangle(10, 10, 36, 20)])),
    )
    samples = RoISamples(
        boxes=torch.tensor([[5.0, 5, 21, 22], [0, 0, 9, 9], [10, 10, 34, 30]]),
        labels=torch.tensor([2, num_classes, 0]),
        gt_index=torch.tensor([0, -1, 1]),
        size=SIZE,
        num_classes=num_classes,
    )
    return [samples], [targets]


def rectangle(x1: int, y1: int, x2: int, y2: int) -> torch.Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_box_losses_are_the_equations():
    head = TwoFCBoxHead(RoISpec(4, (7, 7)), 3, fc_dim=8)
    samples, targets = make_samples()
    logits, deltas = torch.randn(3, 4), torch.randn(3, 3, 4)
    losses = head.losses((logits, deltas), samples, targets)

    classification = -sum(math.log(logits[r].softmax(0)[samples[0].labels[r]]) for r in range(3)) / 3
    regression = 0.0
    for r in (0, 2):
        (x1, y1, x2, y2), goal = samples[0].boxes[r].tolist(), targets[0].boxes[samples[0].gt_index[r]].tolist()
        w, h, gw, gh = x2 - x1, y2 - y1, goal[2] - goal[0], goal[3] - goal[1]
        t = [10 * (goal[0] + gw / 2 - x1 - w / 2) / w, 10 * (goal[1] + gh / 2 - y1 - h / 2) / h]
        t += [5 * math.log(gw / w), 5 * math.log(gh / h)]
        for d, goal_d in zip(deltas[r, samples[0].labels[r]].tolist(), t, strict=True):
            e = abs(d - goal_d)
            regression += 0.5 * e * e if e < 1 else e - 0.5
    assert losses["loss_cls"].item() == pytest.approx(classification, rel=1e-5)
    assert losses["loss_box"].item() == pytest.approx(regression / 3, rel=1e-5)


def test_mask_loss_is_on_the_channel_of_the_class():
    head = FCNMaskHead(RoISpec(4, (14, 14)), 3, conv_dim=8)
    samples, targets = make_samples()
    foreground = [samples[0].foreground()]
    logits = torch.randn(2, 3, 28, 28)
    loss = head.losses(logits, foreground, targets)["loss_mask"].item()
    goals = targets[0].masks.crop(foreground[0].gt_index, foreground[0].boxes, 28).double()
    assert 0.5 < goals.mean() < 1
    expected = 0.0
    for r, label in enumerate([2, 0]):
        p = logits[r, label].double().sigmoid()
        expected -= (goals[r] * p.log() + (1 - goals[r]) * (1 - p).log()).mean().item() / 2
    assert loss == pytest.approx(expected, rel=1e-5)


def test_without_rois_losses_are_zero_and_reach_every_parameter():
    box, mask = TwoFCBoxHead(RoISpec(4, (7, 7)), 3, fc_dim=8), FCNMaskHead(RoISpec(4, (14, 14)), 3, conv_dim=8)
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), SIZE, BitmapMasks.from_rle([]))
    empty = torch.zeros(0, dtype=torch.int64)
    samples = [RoISamples(torch.zeros(0, 4), empty, empty, SIZE, 3)]
    losses = box.losses(box(torch.zeros(0, 4, 7, 7)), samples, [nothing])
    losses |= mask.losses(mask(torch.zeros(0, 4, 14, 14)), samples, [nothing])
    sum(losses.values()).backward()
    assert all(value == 0 for value in losses.values())
    assert all(p.grad is not None and (p.grad == 0).all() for m in (box, mask) for p in m.parameters())


def test_scores_are_probabilities_without_the_background_and_boxes_stay_inside():
    head = TwoFCBoxHead(RoISpec(4, (7, 7)), 3, fc_dim=8)
    proposals = [Proposals(torch.tensor([[0.0, 0, 30, 30], [5, 5, 39, 39]]), torch.ones(2), SIZE)]
    logits = torch.tensor([[0.0, 1, 2, 3], [9, 0, 0, 0]])
    (candidates,) = head.score((logits, torch.full((2, 3, 4), 9.0)), proposals)
    torch.testing.assert_close(candidates.scores, logits.softmax(1)[:, :3])
    assert candidates.boxes.shape == (2, 3, 4) and candidates.boxes.min() >= 0 and candidates.boxes.max() <= 40


def test_mask_inference_takes_the_predicted_class():
    head = FCNMaskHead(RoISpec(4, (14, 14)), 3, conv_dim=8)
    logits = torch.randn(2, 3, 28, 28)
    detections = [Detections(torch.zeros(2, 4), torch.ones(2), torch.tensor([1, 2]), SIZE)]
    torch.testing.assert_close(head.inference(logits, detections), torch.stack([logits[0, 1], logits[1, 2]]).sigmoid())


def test_heads_on_all_levels():
    assert TwoFCBoxHead(RoISpec(4, (7, 7), levels=3), 3, fc_dim=8)(torch.randn(3, 5, 4, 7, 7))[0].shape == (5, 4)
    assert FCNMaskHead(RoISpec(4, (14, 14), levels=3), 3, conv_dim=8)(torch.randn(3, 5, 4, 14, 14)).shape == (
        5,
        3,
        28,
        28,
    )


@pytest.mark.parametrize("norm", ["", "GN", "BN"])
def test_the_box_head_of_convolutions_is_these_layers_in_a_row(norm):
    head = ConvFCBoxHead(RoISpec(4, (7, 7)), 3, num_convs=2, conv_dim=8, num_fcs=2, fc_dim=6, norm=norm)
    x = torch.randn(5, 4, 7, 7)
    y = x
    for conv in (head.convs[0].blocks[0][0], head.convs[1]):
        y = F.conv2d(y, conv.weight, conv.bias, padding=1)
        assert (conv.bias is None) == (norm != "")
        if norm == "GN":
            y = F.group_norm(y, 8, conv.norm.weight, conv.norm.bias)
        elif norm == "BN":  # over the five RoIs
            y = (y - y.mean(dim=(0, 2, 3), keepdim=True)) / (
                y.var(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-5
            ).sqrt()
        y = y.clamp(min=0)
    y = y.reshape(5, -1)
    for layer in head.fcs:
        y = (y @ layer.weight.T + layer.bias).clamp(min=0)
    logits, deltas = head(x)
    torch.testing.assert_close(logits, y @ head.logits.weight.T + head.logits.bias, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(deltas.flatten(1), y @ head.deltas.weight.T + head.deltas.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["", "GN", "BN"])
def test_the_box_head_of_convolutions_learns_and_is_whole_without_rois(norm):
    head = ConvFCBoxHead(RoISpec(4, (7, 7)), 3, num_convs=2, conv_dim=8, fc_dim=6, norm=norm)
    samples, targets = make_samples()
    sum(head.losses(head(torch.randn(3, 4, 7, 7)), samples, targets).values()).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters()) and head.convs[1].weight.grad.abs().sum() > 0
    losses = head.losses(head(torch.zeros(0, 4, 7, 7)), [samples[0][:0]], targets)
    sum(losses.values()).backward()
    assert losses["loss_cls"] == losses["loss_box"] == 0
    assert all(values.isfinite().all() for values in [*head.buffers(), *(p.grad for p in head.parameters())])
    levels = ConvFCBoxHead(RoISpec(4, (7, 7), levels=3), 3, conv_dim=8, fc_dim=6, norm=norm)
    assert levels(torch.randn(3, 5, 4, 7, 7))[0].shape == (5, 4)


@pytest.mark.parametrize("options", [{"num_convs": 0}, {"num_fcs": -1}])
def test_options_of_the_box_head_of_convolutions(options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"ConvFCBoxHead.{name.upper()}: {value} is not at least 1"):
        ConvFCBoxHead(RoISpec(4, (7, 7)), 3, **options)


def test_class_agnostic_masks_have_one_channel():
    head = FCNMaskHead(RoISpec(4, (14, 14)), 3, conv_dim=8, predicts="agnostic")
    logits = head(torch.randn(2, 4, 14, 14))
    assert logits.shape == (2, 1, 28, 28) and head.rows_per_class == {}
    samples, targets = make_samples()
    foreground = [samples[0].foreground()]
    goals = targets[0].masks.crop(foreground[0].gt_index, foreground[0].boxes, 28).double()
    p = logits[:, 0].double().sigmoid()
    expected = -(goals * p.log() + (1 - goals) * (1 - p).log()).mean().item()
    assert head.losses(logits, foreground, targets)["loss_mask"].item() == pytest.approx(expected, rel=1e-5)
    detections = [Detections(torch.zeros(2, 4), torch.ones(2), torch.tensor([1, 2]), SIZE)]
    torch.testing.assert_close(head.inference(logits, detections), logits[:, 0].sigmoid())


def test_softmax_masks_compete_with_each_other_and_a_background():
    head = FCNMaskHead(RoISpec(4, (14, 14)), 3, conv_dim=8, predicts="softmax")
    samples, targets = make_samples()
    foreground = [samples[0].foreground()]
    logits = torch.randn(2, 4, 28, 28)
    assert head(torch.randn(2, 4, 14, 14)).shape == logits.shape
    goals = targets[0].masks.crop(foreground[0].gt_index, foreground[0].boxes, 28)
    p = logits.double().exp() / logits.double().exp().sum(dim=1, keepdim=True)
    expected = 0.0
    for r, label in enumerate([2, 0]):
        expected -= torch.where(goals[r] == 1, p[r, label], p[r, 3]).log().mean().item() / 2
    assert head.losses(logits, foreground, targets)["loss_mask"].item() == pytest.approx(expected, rel=1e-5)
    detections = [Detections(torch.zeros(2, 4), torch.ones(2), torch.tensor([1, 2]), SIZE)]
    torch.testing.assert_close(head.inference(logits, detections), torch.stack([p[0, 1], p[1, 2]]).float())


@pytest.mark.parametrize("num_fcs", [2, 3])
def test_the_mlp_head_is_that_of_table_2e(num_fcs):
    head = MLPMaskHead(RoISpec(4, (7, 7)), 80, num_fcs=num_fcs)
    sizes = [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, torch.nn.Linear)]
    assert sizes == [(196, 1024), *[(1024, 1024)] * (num_fcs - 1), (1024, 80 * 28 * 28)]
    x = torch.randn(2, 4, 7, 7)
    hidden = x.flatten(1)
    for layer in (m for m in head.fcs.modules() if isinstance(m, torch.nn.Linear)):
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    expected = hidden @ head.predictor.weight[784 * 3 : 784 * 4].T  # the biases are zero
    torch.testing.assert_close(head(x)[:, 3], expected.view(2, 28, 28), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("predicts", ["class", "agnostic", "softmax"])
@pytest.mark.parametrize("make_head", [FCNMaskHead, MLPMaskHead])
def test_each_mask_branch_learns_and_is_whole_without_rois(make_head, predicts):
    options = {"conv_dim": 8} if make_head is FCNMaskHead else {"fc_dim": 8}
    head = make_head(RoISpec(4, (14, 14)), 3, **options, predicts=predicts)
    samples, targets = make_samples()
    foreground = [samples[0].foreground()]
    head.losses(head(torch.randn(2, 4, 14, 14)), foreground, targets)["loss_mask"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any() for p in head.parameters())
    head.zero_grad()
    nothing = head.losses(head(torch.zeros(0, 4, 14, 14)), [samples[0][:0]], targets)["loss_mask"]
    nothing.backward()
    assert nothing == 0 and all(p.grad is not None and (p.grad == 0).all() for p in head.parameters())
    none = [Detections.empty(SIZE)]
    assert head.inference(head(torch.zeros(0, 4, 14, 14)), none).shape == (0, 28, 28)


def test_class_rows_of_the_mask_predictor():
    """What fine-tuning on other classes copies: the rows of one class, whatever stands for it."""
    for head in (FCNMaskHead(RoISpec(4, (14, 14)), 3), MLPMaskHead(RoISpec(4, (7, 7)), 3, fc_dim=8, size=10)):
        rows = head.rows_per_class["predictor"]
        with torch.no_grad():
            for label in range(3):
                head.predictor.bias[label * rows : (label + 1) * rows] = label
                head.predictor.weight.zero_()
        side = head.shape[1] if isinstance(head, MLPMaskHead) else 28
        x = torch.zeros(1, 4, 14, 14) if isinstance(head, FCNMaskHead) else torch.zeros(1, 4, 7, 7)
        assert torch.equal(head(x)[0], torch.arange(3.0)[:, None, None].expand(3, side, side))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"predicts": "sigmoid"}, "PREDICTS: 'sigmoid' is not one of"), ({"num_fcs": 0}, "NUM_FCS")],
)
def test_mask_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        MLPMaskHead(RoISpec(4, (14, 14)), 3, **options)


def test_a_mask_head_without_convolutions():
    head = FCNMaskHead(RoISpec(6, (7, 7)), 3, num_convs=0, conv_dim=8)
    x = torch.randn(2, 6, 7, 7)
    assert torch.equal(head(x), head.predictor(head.deconv(x).relu())) and head(x).shape == (2, 3, 14, 14)
    with pytest.raises(ValueError, match="NUM_CONVS: 0; 3 levels need at least 1"):
        FCNMaskHead(RoISpec(6, (7, 7), levels=3), 3, num_convs=0)
