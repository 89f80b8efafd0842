import pytest
import torch

from maskrcnn.structures import ImageBatch, Instances, Proposals, Sample

MEAN, STD = torch.tensor([10.0, 20.0, 30.0])[:, None, None], torch.tensor([2.0, 4.0, 5.0])[:, None, None]


def sample(height, width, **fields):
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return Sample(image, image_id=height, original_size=(480, 640), **fields)


def proposals(size):
    return Proposals(torch.zeros(2, 4), torch.zeros(2), size)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_batch_is_normalised_and_padded(dtype):
    samples = [sample(20, 33), sample(31, 17)]
    samples = [Sample(s.image.to(dtype), s.image_id, s.original_size) for s in samples]
    batch = ImageBatch.from_samples(samples, MEAN, STD, divisibility=32)
    assert batch.tensor.shape == (2, 3, 32, 64)
    assert batch.tensor.is_contiguous(memory_format=torch.channels_last)
    assert batch.sizes == [(20, 33), (31, 17)]
    assert batch.proposals is None
    for i, s in enumerate(samples):
        h, w = s.size
        for c in range(3):
            expected = (s.image[c].float() - MEAN[c]) / STD[c]
            torch.testing.assert_close(batch.tensor[i, c, :h, :w], expected)
        rest = batch.tensor[i].clone()
        rest[:, :h, :w] = 0
        assert (rest == 0).all()


def test_one_image_that_needs_no_padding():
    assert ImageBatch.from_samples([sample(32, 64)], MEAN, STD, divisibility=1).tensor.shape == (1, 3, 32, 64)
    assert ImageBatch.from_samples([sample(32, 64)], MEAN, STD, divisibility=32).tensor.shape == (1, 3, 32, 64)


def test_proposals_of_all_samples_or_of_none():
    both = [sample(8, 8, proposals=proposals((8, 8))), sample(9, 9, proposals=proposals((9, 9)))]
    assert [p.size for p in ImageBatch.from_samples(both, MEAN, STD, 1).proposals] == [(8, 8), (9, 9)]
    with pytest.raises(AssertionError, match="others have none"):
        ImageBatch.from_samples([both[0], sample(8, 8)], MEAN, STD, 1)


def test_to_moves_every_field():
    targets = Instances(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), (8, 9))
    whole = sample(8, 9, targets=targets, semantic=torch.zeros(8, 9, dtype=torch.uint8), proposals=proposals((8, 9)))
    moved = whole.to("meta")
    devices = {moved.image.device, moved.targets.boxes.device, moved.semantic.device, moved.proposals.scores.device}
    assert devices == {torch.device("meta")}
    assert moved.image_id == 8
    assert moved.size == (8, 9)
    assert sample(8, 9).to("meta").targets is None
