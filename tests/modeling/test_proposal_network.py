"""A first stage alone, and a second stage on proposals that came from elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskrcnn.config import load_config
from maskrcnn.modeling import Model, ProposalNetwork, build_model
from maskrcnn.modeling.proposals_from_file import ProposalsFromFile
from maskrcnn.structures import ImageBatch, Instances, Proposals, Sample
from maskrcnn.structures.masks import BitmapMasks

FPN, C4 = "_base_/models/mask_rcnn_r18_fpn_small", "_base_/models/mask_rcnn_r18_c4_small"


def model_of(name: str, *overrides: str) -> Model:
    torch.manual_seed(0)
    options = ["MODEL.NUM_CLASSES", "3", "MODEL.BACKBONE.WIDTH", "8", "MODEL.BACKBONE.NORM", "GN", *overrides]
    return build_model(load_config(name, options))


def sample(height: int, width: int, objects: int, *, proposals: int | None = None) -> Sample:
    size = (height, width)
    corner = torch.rand(objects, 2) * 30
    masks = torch.zeros(objects, *size, dtype=torch.bool)
    masks[:, 10:20, 10:20] = True
    targets = Instances(
        torch.cat([corner, corner + 20], dim=1),
        torch.randint(0, 3, (objects,)),
        size,
        BitmapMasks.from_bitmaps(masks),
    )
    found = None
    if proposals is not None:
        corner = torch.rand(proposals, 2) * 30
        found = Proposals(torch.cat([corner, corner + 15], dim=1), torch.rand(proposals), size)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return Sample(image, height, (2 * height, 3 * width), targets, proposals=found)


@pytest.mark.parametrize("name", [FPN, C4], ids=["FPN", "C4"])
@pytest.mark.parametrize("objects", [(2, 3), (0, 0)], ids=["objects", "none"])
def test_it_is_the_first_stage_of_the_detector(name: str, objects: tuple[int, int]) -> None:
    detector, alone = model_of(name), model_of(name, "MODEL.NAME", "ProposalNetwork")
    assert isinstance(alone, ProposalNetwork) and alone.outputs is Proposals
    weights = {key: value for key, value in detector.state_dict().items() if not key.startswith("roi_heads.")}
    alone.load_state_dict(weights, strict=True)
    batch = [sample(64, 90, objects[0]), sample(50, 40, objects[1])]
    torch.manual_seed(1)
    losses = alone(batch)
    torch.manual_seed(1)
    expected = detector(batch)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_box"}
    assert all(torch.equal(losses[key], expected[key]) for key in losses)
    sum(losses.values()).backward()
    unreached = [key for key, p in alone.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not unreached

    with torch.inference_mode():
        found = alone.eval()(batch)
        images = detector.image_batch(batch)
        theirs = detector.eval().proposals.inference(detector.features(images), images)
    for ours, proposals, s in zip(found, theirs, batch, strict=True):
        assert ours.size == s.original_size and len(ours) == len(proposals) > 10
        torch.testing.assert_close(ours.boxes, proposals.boxes * torch.tensor([3.0, 2, 3, 2]))
        assert torch.equal(ours.scores, proposals.scores)


def test_levels_that_only_a_second_stage_would_read_have_gradients_too() -> None:
    """Several processes exchange them, and wait for each."""
    sizes = ("MODEL.PROPOSALS.IN_FEATURES", "[p3]", "MODEL.PROPOSALS.ANCHORS.SIZES", "[[32]]")
    model = model_of(FPN, "MODEL.NAME", "ProposalNetwork", *sizes)
    sum(model([sample(64, 64, 2)]).values()).backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert any(key.startswith("neck.") and not gradient.any() for key, gradient in gradients.items())


FROM_FILE = ("MODEL.PROPOSALS.NAME", "ProposalsFromFile")


@pytest.mark.parametrize("conventions", ["ours", "torchvision", "mmdet", "maskrcnn_benchmark"])
def test_images_are_padded_as_the_detector_pads_them(conventions: str) -> None:
    options = ("MODEL.CONVENTIONS", conventions)
    detector, alone = model_of(C4, *options), model_of(C4, "MODEL.NAME", "ProposalNetwork", *options)
    batch = [sample(33, 50, 0)]
    assert torch.equal(alone.image_batch(batch).tensor, detector.image_batch(batch).tensor)
    assert alone.divisibility == (32 if conventions in ("mmdet", "torchvision") else 1)


def test_in_the_files_frame_it_is_the_last_pixel_that_is_scaled() -> None:
    alone = model_of(C4, "MODEL.NAME", "ProposalNetwork", "MODEL.CONVENTIONS", "maskrcnn_benchmark").eval()
    one = sample(64, 64, 0)  # of a file twice as high and three times as wide
    with torch.inference_mode():
        images = alone.image_batch([one])
        (in_network,) = alone.proposals.inference(alone.features(images), images)
        (in_file,) = alone([one])
    first, last = in_network.boxes[:, :2], in_network.boxes[:, 2:] - 1
    scale = torch.tensor([3.0, 2.0])
    assert len(in_file) > 10 and in_file.size == (128, 192)
    torch.testing.assert_close(in_file.boxes, torch.cat([first * scale, last * scale + 1], dim=1))


def test_without_a_stage_of_its_own_there_is_nothing_to_train() -> None:
    with pytest.raises(ValueError, match=r"MODEL.PROPOSALS.NAME is 'ProposalsFromFile', which computes nothing"):
        model_of(FPN, "MODEL.NAME", "ProposalNetwork", *FROM_FILE)


@pytest.mark.parametrize("name", [FPN, C4], ids=["FPN", "C4"])
@pytest.mark.parametrize("objects", [(2, 3), (0, 3), (0, 0)], ids=["all", "one without", "none"])
@pytest.mark.parametrize("proposals", [(20, 30), (0, 30), (0, 0)], ids=["many", "one without", "no proposals"])
def test_a_second_stage_trains_and_tests_on_given_proposals(
    name: str, objects: tuple[int, int], proposals: tuple[int, int]
) -> None:
    model = model_of(name, *FROM_FILE, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
    assert not any(key.startswith("proposals.") for key in model.state_dict())
    pairs = zip(((64, 90), (50, 40)), objects, proposals, strict=True)
    batch = [sample(*size, count, proposals=given) for size, count, given in pairs]
    losses = model(batch)
    assert set(losses) == {"loss_cls", "loss_box", "loss_mask"}
    sum(losses.values()).backward()
    unreached = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not unreached
    with torch.inference_mode():
        found = model.eval()(batch)
    assert [len(d) > 0 for d in found] == [given > 0 for given in proposals]


def test_detections_are_those_of_the_detector_that_made_the_proposals() -> None:
    detector = model_of(FPN, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0").eval()
    second = model_of(FPN, *FROM_FILE, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0").eval()
    second.load_state_dict({key: v for key, v in detector.state_dict().items() if not key.startswith("proposals.")})
    batch = [sample(64, 90, 0), sample(50, 40, 0)]
    with torch.inference_mode():
        images = detector.image_batch(batch)
        proposals = detector.proposals.inference(detector.features(images), images)
        given = [replace(s, proposals=p) for s, p in zip(batch, proposals, strict=True)]
        pairs = list(zip(detector(batch), second(given), strict=True))
    for expected, found in pairs:
        assert len(expected) == len(found) > 10
        assert torch.equal(expected.boxes, found.boxes) and torch.equal(expected.masks, found.masks)


def images_with(boxes: list[list[float]], scores: list[float]) -> ImageBatch:
    proposals = Proposals(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), (30, 40))
    return ImageBatch(torch.zeros(1, 3, 32, 64), [(30, 40)], [proposals])


def test_the_best_by_score_cut_to_the_image() -> None:
    boxes = [[0.0, 0, 9, 9], [-5, 2, 60, 50], [50, 0, 60, 9], [3, 3, 3, 9], [1, 1, 2, 2]]
    stage = ProposalsFromFile({}, topk_train=3, topk_test=2)
    images = images_with(boxes, [0.2, 0.9, 1.0, 1.0, 0.2])
    proposals, losses = stage.losses({}, images, [])
    assert losses == {}
    # outside the image or without a side: nothing; of two with one score the first comes first
    assert proposals[0].boxes.tolist() == [[0, 2, 40, 30], [0, 0, 9, 9], [1, 1, 2, 2]]
    assert stage.inference({}, images)[0].boxes.tolist() == [[0, 2, 40, 30], [0, 0, 9, 9]]
    assert len(stage.inference({}, images_with([], []))[0]) == 0


def test_without_proposals_and_with_no_number_of_them() -> None:
    with pytest.raises(ValueError, match=r"no proposals.*ProposalsFromFile.*DATASETS.PROPOSAL_FILES_TEST"):
        ProposalsFromFile({}).inference({}, ImageBatch(torch.zeros(1, 3, 32, 32), [(32, 32)]))
    with pytest.raises(ValueError, match="ProposalsFromFile.TOPK_TEST is 0"):
        ProposalsFromFile({}, topk_test=0)


def test_gradient_checkpointing_reaches_the_backbone() -> None:
    model = model_of(FPN, "MODEL.NAME", "ProposalNetwork")
    batch = [sample(64, 64, 2)]
    torch.manual_seed(1)
    expected = model(batch)
    model.checkpoint_parts()
    torch.manual_seed(1)
    assert all(torch.equal(value, expected[key]) for key, value in model(batch).items())
    assert set(model.compilable()) == {model.backbone, model.neck, model.proposals}
