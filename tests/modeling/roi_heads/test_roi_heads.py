import torch
from torchvision.ops import box_iou

from maskrcnn.conventions import OURS
from maskrcnn.modeling.matching import Matcher, Sampler
from maskrcnn.modeling.roi_heads.roi_heads import RoIHeads
from maskrcnn.structures import Candidates, Instances, Proposals

SIZE = (100, 100)


def make_heads(**options) -> RoIHeads:
    defaults = {
        "matcher": Matcher(),
        "sampler": Sampler(batch_size_per_image=16, positive_fraction=0.5),
        "score_thresh_test": 0.05,
        "nms_thresh_test": 0.5,
    }
    return RoIHeads(3, 10, OURS, **{**defaults, **options})


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * 60
    return torch.cat([corner, corner + 10 + torch.rand(count, 2) * 30], dim=1)


def select_plainly(boxes, scores):
    """Scores, labels and boxes of the best ten, class by class with a loop over pairs."""
    kept = []
    for label in range(3):
        best: list[int] = []
        for i in scores[:, label].argsort(descending=True).tolist():
            if scores[i, label] <= 0.05:
                continue
            if all(box_iou(boxes[i, label][None], boxes[j, label][None]) <= 0.5 for j in best):
                best.append(i)
        kept += [(scores[i, label].item(), label, boxes[i, label]) for i in best]
    return sorted(kept, key=lambda row: -row[0])[:10]


def test_select_equals_a_plain_loop():
    torch.manual_seed(0)
    counts, sizes = (40, 0, 25, 2), [SIZE, (50, 60), (90, 100), SIZE]
    boxes = [random_boxes(n)[:, None].repeat(1, 3, 1) + torch.rand(n, 3, 4) for n in counts]
    scores = [torch.rand(n, 3) ** 4 for n in counts]
    got = make_heads().select([Candidates(*row) for row in zip(boxes, scores, sizes, strict=True)])
    assert [d.size for d in got] == sizes and [len(d) for d in got[:3]] == [10, 0, 10]
    for detections, image_boxes, image_scores in zip(got, boxes, scores, strict=True):
        kept = select_plainly(image_boxes, image_scores)
        torch.testing.assert_close(detections.scores, torch.tensor([row[0] for row in kept]))
        assert detections.labels.tolist() == [row[1] for row in kept]
        torch.testing.assert_close(detections.boxes, torch.cat([torch.zeros(0, 4), *(row[2][None] for row in kept)]))


def test_select_drops_what_is_not_finite_and_takes_boxes_without_classes():
    boxes, scores = random_boxes(3)[:, None], torch.full((3, 3), 0.9)
    boxes[0, 0, 2], scores[1, 1] = float("inf"), float("nan")
    (got,) = make_heads().select([Candidates(boxes, scores, SIZE)])
    assert len(got) == 5 and got.boxes.isfinite().all()


def test_select_of_nothing():
    (got,) = make_heads().select([Candidates(torch.zeros(0, 3, 4), torch.zeros(0, 3), SIZE)])
    assert len(got) == 0 and got.boxes.shape == (0, 4)


def test_samples_follow_the_overlap_and_hold_the_objects():
    torch.manual_seed(0)
    targets = Instances(random_boxes(4), torch.tensor([0, 1, 2, 1]), SIZE)
    proposals = Proposals(torch.cat([random_boxes(200), targets.boxes + 1]), torch.ones(204), SIZE)
    (samples,) = make_heads().sample([proposals], [targets])
    iou = box_iou(samples.boxes, targets.boxes)
    for row in range(len(samples)):
        best, index = iou[row].max(0)
        if best >= 0.5:
            assert samples.gt_index[row] == index and samples.labels[row] == targets.labels[index]
        else:
            assert samples.gt_index[row] == -1 and samples.labels[row] == 3
    assert len(samples) == 16 and 1 <= len(samples.foreground()) <= 8


def test_without_objects_all_samples_are_background():
    none = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), SIZE)
    (samples,) = make_heads().sample([Proposals(random_boxes(5), torch.ones(5), SIZE)], [none])
    assert samples.labels.tolist() == [3] * 5 and samples.gt_index.tolist() == [-1] * 5
    (samples,) = make_heads().sample([Proposals(torch.zeros(0, 4), torch.ones(0), SIZE)], [none])
    assert len(samples) == 0
