"""Several views of an image: by hand for a model whose answers are known, and against the model alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import TinyModel
from tiny_run import make_run, tiny_config
from torch import Tensor

from maskrcnn import Predictor
from maskrcnn.config import ConfigError, load_config
from maskrcnn.conventions import OURS
from maskrcnn.engine import run
from maskrcnn.engine.checks import RunError
from maskrcnn.engine.views import MultiViewInference, View, vote
from maskrcnn.modeling import build_model
from maskrcnn.modeling.backbones import ResNet
from maskrcnn.modeling.generalized_rcnn import GeneralizedRCNN
from maskrcnn.modeling.matching import Matcher, Sampler
from maskrcnn.modeling.roi_heads import RoIHeads
from maskrcnn.structures import Candidates, Detections, ImageBatch, Instances, Proposals, Sample

# COCO's figures, of which left and right are exchanged in a mirror: eyes, ears, shoulders, elbows, ... ankles.
PAIRS = [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]
SHORTER, LONGER = 64, 96


def picture(height: int, width: int, seed: int = 0) -> Sample:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(torch.from_numpy(pixels).permute(2, 0, 1), image_id=seed, original_size=(height, width))


def mirrored(sample: Sample) -> Sample:
    return replace(sample, image=sample.image.flip(-1))


def masks_model() -> GeneralizedRCNN:
    return build_model(tiny_config(Path(), "MODEL.NUM_CLASSES=3")).eval()


def small(config: str, *overrides: str) -> GeneralizedRCNN:
    common = ["MODEL.NUM_CLASSES=2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.01", "TEST.DETECTIONS_PER_IMAGE=12"]
    common += ["MODEL.PROPOSALS.POST_NMS_TOPK_TEST=20"]
    return build_model(load_config(f"_base_/models/{config}", [*common, *overrides])).eval()


def c4_model() -> GeneralizedRCNN:
    return small("mask_rcnn_r18_c4_small")


def keypoint_model() -> GeneralizedRCNN:
    narrow = ["MODEL.BACKBONE.DEPTH=18", "MODEL.BACKBONE.WIDTH=16", "MODEL.NECK.CHANNELS=16", "MODEL.BACKBONE.NORM=GN"]
    narrow += ["MODEL.ROI_HEADS.BOX_HEAD.FC_DIM=16", "MODEL.ROI_HEADS.KEYPOINT_HEAD.CONV_DIM=8"]
    narrow += ["MODEL.ROI_HEADS.KEYPOINT_HEAD.NUM_CONVS=1"]
    return small("keypoint_rcnn_r50_fpn", *narrow)


def faster_model() -> GeneralizedRCNN:
    return small("mask_rcnn_r18_fpn_small", "MODEL.ROI_HEADS.MASK_HEAD.NAME=")


MODELS = {"masks": masks_model, "c4": c4_model, "keypoints": keypoint_model, "boxes": faster_model}


@pytest.fixture(scope="module", params=MODELS, ids=str)
def model(request: pytest.FixtureRequest) -> GeneralizedRCNN:
    torch.manual_seed(0)
    return MODELS[request.param]()


def inference_in(model: GeneralizedRCNN, views: Sequence[View]) -> MultiViewInference:
    return MultiViewInference(model, View(SHORTER, LONGER), views)


def ordinary(model: GeneralizedRCNN, sample: Sample) -> Detections:
    with torch.inference_mode():
        return model.inference([View(SHORTER, LONGER).of(sample)])[0]


def found_in(model: GeneralizedRCNN, sample: Sample, *views: View) -> Detections:
    with torch.inference_mode():
        return inference_in(model, views).inference([sample])[0]


def assert_equal(a: Detections, b: Detections, **tolerance: float) -> None:
    assert len(a) == len(b) > 0 and a.size == b.size
    for name in ("boxes", "scores", "labels", "masks", "keypoints"):
        mine, theirs = getattr(a, name), getattr(b, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(mine, theirs, **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


@pytest.mark.parametrize("size", [(50, 75), (64, 91), (200, 30)])
def test_one_view_of_the_usual_size_is_the_model_alone(model: GeneralizedRCNN, size: tuple[int, int]) -> None:
    sample = picture(*size)
    expected = ordinary(model, sample)
    assert_equal(found_in(model, sample, View(SHORTER, LONGER)), expected)
    assert (expected.masks is None) == (expected.keypoints is not None or model.roi_heads.mask_head is None)


def test_one_view_is_the_model_alone_in_bfloat16_too(model: GeneralizedRCNN) -> None:
    sample = picture(50, 75)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(found_in(model, sample, View(SHORTER, LONGER)), ordinary(model, sample))


def test_a_view_seen_twice_changes_nothing(model: GeneralizedRCNN) -> None:
    sample, view = picture(50, 75), View(SHORTER, LONGER)
    assert_equal(found_in(model, sample, view, view), ordinary(model, sample))


@pytest.mark.parametrize("size", [(64, 91), (64, 64)])
def test_the_mirror_of_a_mirrored_image_is_the_image(model: GeneralizedRCNN, size: tuple[int, int]) -> None:
    sample = picture(*size)  # of the test size: resizing would round a mirrored pixel otherwise
    seen = found_in(model, mirrored(sample), View(SHORTER, LONGER, mirrored=True))
    expected = ordinary(model, sample)
    boxes = expected.boxes.clone()
    boxes[:, [0, 2]] = size[1] - expected.boxes[:, [2, 0]]
    masks = None if expected.masks is None else expected.masks.flip(2)
    points = None
    if expected.keypoints is not None:
        points = expected.keypoints.clone()
        points[:, :, 0] = size[1] - expected.keypoints[:, :, 0]
        for a, b in PAIRS:
            points[:, [a, b]] = points[:, [b, a]]
        # a point is the centre of a sample of its box: of equally good ones, and at rounded edges, the other one
        torch.testing.assert_close(seen.keypoints[..., 2], points[..., 2], rtol=1e-3, atol=1e-3)
        assert ((seen.keypoints - points).abs() < 1e-2).all(dim=2).float().mean() > 0.99
        points = seen.keypoints
    assert_equal(seen, replace(expected, boxes=boxes, masks=masks, keypoints=points), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_images_of_one_pixel(model: GeneralizedRCNN, size: tuple[int, int]) -> None:
    views = [View(shorter, 96, flip) for shorter in (32, 64) for flip in (False, True)]
    found = found_in(model, picture(*size), *views)
    limits = torch.tensor([size[1], size[0], size[1], size[0]])
    assert found.size == size and (found.boxes >= 0).all() and (found.boxes <= limits * 1.000001).all()


def test_nothing_found(model: GeneralizedRCNN) -> None:
    blind = copy.deepcopy(model)
    blind.roi_heads.score_thresh_test = 1.1
    found = found_in(blind, picture(50, 75), View(32, 96), View(64, 96, mirrored=True))
    alone = ordinary(blind, picture(50, 75))
    assert len(found) == 0 and found.size == (50, 75)
    for name in ("boxes", "masks", "keypoints"):
        mine, theirs = getattr(found, name), getattr(alone, name)
        assert (mine is None) == (theirs is None)
        assert mine is None or mine.shape == theirs.shape


class Told(RoIHeads):
    """Heads that answer by the size of the image and whether its left half is the brighter one.

    `answers[size, bright on the left]` has boxes (P, K or 1, 4), scores (P, K), masks (m, m), heat maps (17, m, m).
    """

    def __init__(self, answers: dict[tuple[tuple[int, int], bool], tuple[Tensor, ...]], num_classes: int) -> None:
        super().__init__(
            num_classes,
            10,
            OURS,
            matcher=Matcher(positive=0.5, negative=0.5),
            sampler=Sampler(batch_size_per_image=1, positive_fraction=0.5),
            score_thresh_test=0.05,
            nms_thresh_test=0.5,
        )
        self.answers = answers
        self.asked: list[Tensor] = []  # boxes on which masks were wanted, view by view

    def score(self, features: dict[str, Tensor], proposals: list[Proposals]) -> list[Candidates]:
        (one,) = proposals
        boxes, scores, _, _ = self.answers[one.size, bright_on_the_left(features, one.size)]
        return [Candidates(boxes=boxes, scores=scores, size=one.size)]

    def on_boxes(self, features: dict[str, Tensor], detections: list[Detections]) -> dict[str, Tensor]:
        (one,) = detections
        _, _, mask, maps = self.answers[one.size, bright_on_the_left(features, one.size)]
        self.asked.append(one.boxes)
        return {"masks": mask.expand(len(one), -1, -1), "keypoints": maps.expand(len(one), -1, -1, -1)}

    def finish(self, outputs: dict[str, Tensor], detections: list[Detections]) -> list[Detections]:
        (one,) = detections
        self.maps = outputs["keypoints"]
        return [replace(one, masks=outputs["masks"])]


def bright_on_the_left(features: dict[str, Tensor], size: tuple[int, int]) -> bool:
    image = features["image"][0, 0, : size[0], : size[1]]
    middle = size[1] // 2
    return bool(image[:, :middle].mean() > image[:, -middle:].mean())


class Pixels(torch.nn.Module):
    """A backbone whose features are the image."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"image": images}


class Everywhere:
    """One proposal, the image."""

    def losses(self, features: dict[str, Tensor], images: ImageBatch, targets: list[Instances]) -> None: ...

    def inference(self, features: dict[str, Tensor], images: ImageBatch) -> list[Proposals]:
        return [
            Proposals(boxes=torch.tensor([[0.0, 0.0, w, h]]), scores=torch.ones(1), size=(h, w))
            for h, w in images.sizes
        ]


def bright_left_half(height: int, width: int) -> Sample:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, :, : width // 2] = 255
    return Sample(image, 0, (height, width))


@pytest.mark.parametrize("agnostic", [False, True], ids=["a box for each class", "one box for all classes"])
def test_by_hand(agnostic: bool) -> None:
    """An image of 20 x 15, seen at 20 x 15 and, in a mirror, at 40 x 30: boxes, masks, keypoints of both."""
    mask, maps = torch.zeros(1, 2, 2), torch.zeros(1, 17, 2, 2)
    mask[0] = torch.tensor([[1.0, 0.0], [0.5, 0.25]])
    maps[0, 5] = torch.tensor([[4.0, 0.0], [0.0, 0.0]])  # the left shoulder, in the upper left
    mirror_mask, mirror_maps = torch.zeros(1, 2, 2), torch.zeros(1, 17, 2, 2)
    mirror_mask[0] = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    mirror_maps[0, 6] = torch.tensor([[0.0, 2.0], [0.0, 0.0]])  # what seems to be the right one, in the upper right
    # class 0 in the image: (1, 2)-(7, 12) with 0.6; in the mirror of twice the size, of width 30, 30 - 2*7 = 16 to
    # 30 - 2*1 = 28, and one of class 1 that the image does not show: 2 to 10 there is 10 to 14 here.
    boxes = torch.tensor([[[1.0, 2, 7, 12]]])
    mirror_boxes = torch.tensor([[[16.0, 4, 28, 24]], [[2.0, 0, 10, 40]]])
    if not agnostic:
        boxes, mirror_boxes = boxes.repeat(1, 2, 1), mirror_boxes.repeat(1, 2, 1)
    heads = Told(
        {
            ((20, 15), True): (boxes, torch.tensor([[0.6, 0.01]]), mask, maps),
            ((40, 30), False): (mirror_boxes, torch.tensor([[0.9, 0.02], [0.0, 0.3]]), mirror_mask, mirror_maps),
        },
        2,
    )
    model = GeneralizedRCNN(Pixels(), None, Everywhere(), heads).eval()
    views = MultiViewInference(model, View(15, 100), [View(15, 100), View(30, 100, mirrored=True)])
    with torch.inference_mode():
        (found,) = views.inference([bright_left_half(20, 15)])
    assert found.labels.tolist() == [0, 1] and found.scores.tolist() == pytest.approx([0.9, 0.3])
    assert found.boxes.tolist() == [[1, 2, 7, 12], [10, 0, 14, 20]]
    assert [asked.tolist() for asked in heads.asked] == [
        [[1, 2, 7, 12], [10, 0, 14, 20]],
        [[16, 4, 28, 24], [2, 0, 10, 40]],
    ]
    assert found.masks[0].tolist() == [[0.75, 0.25], [0.25, 0.125]]
    assert heads.maps[0, 5].tolist() == [[3, 0], [0, 0]]  # (4 + 2) / 2: the mirror's right shoulder is the left one
    assert (heads.maps[0, [i for i in range(17) if i != 5]] == 0).all()


def test_every_pair_changes_places() -> None:
    maps = torch.arange(17.0)[None, :, None, None].expand(1, 17, 3, 4)
    seen = View(10, 10, mirrored=True).maps_out_of({"keypoints": maps})["keypoints"][0, :, 0, 0].tolist()
    expected = list(range(17))
    for a, b in PAIRS:
        expected[a], expected[b] = b, a
    assert seen == expected


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (7, 500)])
def test_boxes_into_a_view_and_back(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    frame = (size[0] * 2, size[1] * 2)
    corners = torch.rand(6, 2, 2, generator=generator) * torch.tensor([frame[1], frame[0]])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    boxes[0] = torch.tensor([0, 0, frame[1], frame[0]])  # all of it, and one without area
    boxes[1, 2:] = boxes[1, :2]
    found = Detections(boxes=boxes, scores=torch.ones(6), labels=torch.zeros(6, dtype=torch.int64), size=frame)
    for view in (View(20, 100), View(20, 100, mirrored=True)):
        height, width = view.size(size)
        seen = view.into(found, (height, width), Detections.resize)
        for box, there in zip(boxes.tolist(), seen.boxes.tolist(), strict=True):
            x1, x2 = box[0] * width / frame[1], box[2] * width / frame[1]
            if view.mirrored:
                x1, x2 = width - x2, width - x1
            expected = [x1, box[1] * height / frame[0], x2, box[3] * height / frame[0]]
            assert there == pytest.approx(expected, rel=1e-5, abs=1e-4)
        assert seen.size == (height, width)
        torch.testing.assert_close(view.out_of(seen, frame, Detections.resize).boxes, boxes, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("conventions", ["ours", "maskrcnn_benchmark"])
def test_boxes_of_last_pixels_are_scaled_by_them_in_views_too(conventions: str) -> None:
    """maskrcnn-benchmark's x2 is the last pixel: 19 is 76 in an image of four times the size, and ours is one more."""
    model = small("mask_rcnn_r18_fpn_small", f"MODEL.CONVENTIONS={conventions}")
    last = 77.0 if conventions == "maskrcnn_benchmark" else 80.0
    view, boxes = View(400, 1333), torch.tensor([[10.0, 10.0, 20.0, 20.0]])
    detections = Detections(
        boxes=boxes, scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.int64), size=(100, 100)
    )
    candidates = Candidates(boxes=boxes[:, None], scores=torch.ones(1, 2), size=(100, 100))
    large = view.out_of(detections, (400, 400), model.in_file)
    assert large.boxes.tolist() == [[40.0, 40.0, last, last]]
    assert view.out_of(candidates, (400, 400), model.in_file).boxes.tolist() == [[[40.0, 40.0, last, last]]]
    assert view.into(large, (100, 100), model.in_file).boxes.tolist() == boxes.tolist()
    seen = View(400, 1333, mirrored=True).into(detections, (400, 400), model.in_file).boxes.tolist()
    assert seen == [[400 - last, 40.0, 360.0, last]]


def vote_by_definition(found: Detections, candidates: Candidates, iou: float, threshold: float) -> list[list[float]]:
    moved = []
    for box, label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
        total, weighted = 0.0, np.zeros(4)
        for row in range(len(candidates)):
            own = candidates.boxes[row, label if candidates.boxes.shape[1] > 1 else 0].tolist()
            score = candidates.scores[row, label].item()
            width = max(min(box[2], own[2]) - max(box[0], own[0]), 0)
            height = max(min(box[3], own[3]) - max(box[1], own[1]), 0)
            areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, own))
            if score > threshold and areas and width * height / (areas - width * height) >= iou:
                total, weighted = total + score, weighted + score * np.array(own)
        moved.append((weighted / total).tolist() if total else box)
    return moved


@pytest.mark.parametrize("per_class", [3, 1])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_the_vote_is_the_definition(per_class: int, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    centre = torch.tensor([10.0, 10, 40, 50]) + torch.rand(count, per_class, 4, generator=generator) * 8
    candidates = Candidates(boxes=centre, scores=torch.rand(count, 3, generator=generator), size=(80, 80))
    boxes = torch.tensor([[12.0, 12, 44, 54], [13, 13, 46, 55], [60, 60, 70, 70], [5, 5, 5, 5]])
    labels = torch.tensor([0, 2, 1, 1])
    found = Detections(boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.7, 0.6]), labels=labels, size=(80, 80))
    voted = vote(found, candidates, 0.8, 0.3)
    np.testing.assert_allclose(voted.boxes.tolist(), vote_by_definition(found, candidates, 0.8, 0.3), rtol=1e-5)
    assert torch.equal(voted.boxes[2:], boxes[2:])  # nothing lies on them
    assert count < 40 or not torch.equal(voted.boxes[:2], boxes[:2])
    assert torch.equal(voted.scores, found.scores) and torch.equal(voted.labels, labels)
    assert len(vote(found[:0], candidates, 0.8, 0.3)) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("views"))


ENABLED = ("TEST.AUGMENTATION.ENABLED", "True")
VIEWS = (*ENABLED, "TEST.AUGMENTATION.SIZES", "[48, 64]", "TEST.AUGMENTATION.MAX_SIZE", "96")


def test_a_predictor_looks_in_all_views(trained: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    plain = Predictor(trained, device="cpu")
    assert plain.views is None
    one = (*ENABLED, "TEST.AUGMENTATION.SIZES", "[64]", "TEST.AUGMENTATION.MAX_SIZE", "96")
    alone = Predictor(trained, device="cpu", overrides=[*one, "TEST.AUGMENTATION.HFLIP", "False"])
    assert_equal(alone(pixels), plain(pixels))
    several = Predictor(trained, device="cpu", overrides=VIEWS)
    expected = found_in(plain.model, picture_of(pixels), *(View(s, 96, m) for s in (48, 64) for m in (False, True)))
    assert_equal(several(pixels), expected)
    assert_equal(several([pixels, pixels])[1], expected)
    assert not torch.equal(expected.boxes[:5], plain(pixels).boxes[:5])


def picture_of(pixels: np.ndarray) -> Sample:
    return Sample(torch.from_numpy(pixels).permute(2, 0, 1), 0, pixels.shape[:2])


def test_a_run_is_evaluated_in_all_views(trained: Path) -> None:
    results = trained / "inference" / "coco_instances_results.json"
    cfg = load_config(trained / "config.yaml", ["OUTPUT_DIR", str(trained), *VIEWS])
    figures = run.test(cfg)
    assert "bbox/AP" in figures and "looking at each image in 4 views" in (trained / "log.txt").read_text()
    in_views = json.loads(results.read_text())
    predictor = Predictor(trained, device="cpu", overrides=VIEWS)
    found = predictor(trained.parent / "data" / "0.png")
    scores = [row["score"] for row in in_views if row["image_id"] == 100]
    assert scores == pytest.approx(found.scores.tolist(), abs=1e-6) and len(scores) > 0


def test_training_ends_with_all_views_and_is_evaluated_without(tmp_path: Path) -> None:
    make_run(tmp_path)
    solver = ["SOLVER.MAX_ITER=2", "SOLVER.STEPS=()", "SOLVER.IMS_PER_BATCH=1", "SOLVER.WARMUP_ITERS=0", "WRITERS=[]"]
    cfg = tiny_config(tmp_path, *VIEWS, *solver, "TEST.EVAL_PERIOD=1", "OUTPUT_DIR", str(tmp_path / "trained"))
    results = run.train(cfg)
    log = (tmp_path / "trained" / "log.txt").read_text()
    assert log.count("looking at each image in 4 views") == 1 and log.count("3 images:\n") == 3
    lines = [json.loads(line) for line in (tmp_path / "trained" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "bbox/AP" in line] == [0, 1] and "bbox/AP" in results
    evaluated = json.loads((tmp_path / "trained" / "inference" / "evaluation.json").read_text())
    assert evaluated["what"] == "the end, in 4 views"


def test_what_is_wrong_is_said_at_the_start(trained: Path) -> None:
    def check(message: str, *overrides: str) -> None:
        cfg = load_config(trained / "config.yaml", ["OUTPUT_DIR", str(trained), *ENABLED, *overrides])
        with pytest.raises(RunError, match=message):
            run.test(cfg)

    check(r"TEST.AUGMENTATION.SIZES and MAX_SIZE: shorter sides \(\)", "TEST.AUGMENTATION.SIZES=()")
    check("SIZES and MAX_SIZE: shorter sides .*at least 1 pixel", "TEST.AUGMENTATION.SIZES=[0]")
    check("limit 300 of the longer side is below", "TEST.AUGMENTATION.MAX_SIZE=300")
    check(r"TEST.AUGMENTATION.BOX_VOTING is 1.5", "TEST.AUGMENTATION.BOX_VOTING=1.5")
    with pytest.raises(ConfigError, match="SIZE"):
        load_config(trained / "config.yaml", ["TEST.AUGMENTATION.SIZE=[400]"])
    with pytest.raises(ConfigError, match=r"here it is TEST.AUGMENTATION.SIZES"):
        load_config(trained / "config.yaml", ["TEST.AUG.MIN_SIZES=[400]"])


def test_a_model_without_roi_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="TEST.AUGMENTATION.ENABLED: .* not TinyModel"):
        inference_in(TinyModel(3, 10, None), [View(64, 96)])
    alone = GeneralizedRCNN(ResNet(depth=18, width=8), None, Everywhere(), None)
    with pytest.raises(ValueError, match="TEST.AUGMENTATION.ENABLED"):
        inference_in(alone, [View(64, 96)])
