import torch

from maskrcnn.modeling.matching import IGNORED, NEGATIVE, POSITIVE, BoxCoder, Matcher, Sampler


def test_thresholds_and_the_band_between():
    matches, labels = Matcher(positive=0.7, negative=0.3)(torch.tensor([[0.1, 0.5, 0.8, 0.7], [0.2, 0.6, 0.1, 0.3]]))
    assert matches.tolist() == [1, 1, 0, 0]
    assert labels.tolist() == [NEGATIVE, IGNORED, POSITIVE, POSITIVE]


def test_the_best_boxes_of_an_object_are_positive_ties_included():
    iou = torch.tensor([[0.2, 0.2, 0.1], [0.0, 0.0, 0.0]])
    _, labels = Matcher(positive=0.7, negative=0.3, best_for_each_object=True)(iou)
    assert labels.tolist() == [POSITIVE, POSITIVE, NEGATIVE]  # an object that nothing touches has no best box


def test_without_objects_every_box_is_negative():
    matches, labels = Matcher()(torch.zeros(0, 5))
    assert matches.tolist() == [0] * 5 and labels.tolist() == [NEGATIVE] * 5


def test_without_boxes_there_is_nothing():
    matches, labels = Matcher(best_for_each_object=True)(torch.zeros(3, 1)[:, :0])
    assert len(matches) == len(labels) == 0


def test_the_sampler_keeps_the_share_and_fills_with_negatives():
    labels = torch.tensor([POSITIVE] * 10 + [NEGATIVE] * 100 + [IGNORED] * 50, dtype=torch.int8)
    index, valid = Sampler(batch_size_per_image=16, positive_fraction=0.25)(labels)
    chosen = labels[index[valid]]
    assert (chosen == POSITIVE).sum() == 4 and (chosen == NEGATIVE).sum() == 12 and len(index[valid].unique()) == 16


def test_the_sampler_takes_what_there_is():
    labels = torch.tensor([POSITIVE, NEGATIVE, NEGATIVE, IGNORED], dtype=torch.int8)
    index, valid = Sampler(batch_size_per_image=16, positive_fraction=0.25)(labels)
    assert sorted(index[valid].tolist()) == [0, 1, 2]
    assert not Sampler()(labels[:0])[1].any()


def test_the_sampler_is_uniform():
    torch.manual_seed(0)
    labels = torch.tensor([NEGATIVE] * 20, dtype=torch.int8)
    counts = torch.zeros(20)
    for _ in range(2000):
        index, valid = Sampler(batch_size_per_image=5)(labels)
        counts[index[valid]] += 1
    assert (counts - 500).abs().max() < 5 * (2000 * 0.25 * 0.75) ** 0.5  # five standard deviations


def test_the_coder_is_the_equations_of_rcnn():
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    reference, box = torch.tensor([[10.0, 20.0, 30.0, 60.0]]), torch.tensor([[15.0, 10.0, 55.0, 30.0]])
    expected = [10 * (35 - 20) / 20, 10 * (20 - 40) / 40, 5 * torch.tensor(2.0).log(), 5 * torch.tensor(0.5).log()]
    torch.testing.assert_close(coder.encode(box, reference), torch.tensor([expected]))
    torch.testing.assert_close(coder.decode(coder.encode(box, reference), reference), box)
