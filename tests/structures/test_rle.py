import numpy as np
import pycocotools.mask
import pytest

from maskrcnn.structures.rle import decode_counts, decode_cut


def test_counts_by_hand():
    # 2 x 3 pixels, the middle column and the last pixel inside; the fourth run is written as 1 - 2 = -1, which is "O"
    rles = [{"size": [2, 3], "counts": counts} for counts in ("221O", b"221O", [2, 2, 1, 1])]
    counts, lengths = decode_counts(rles)
    assert counts.tolist() == [2, 2, 1, 1] * 3
    assert lengths.tolist() == [4, 4, 4]


def test_no_masks():
    assert [part.tolist() for part in decode_counts([])] == [[], []]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 3], "counts": [2, 2, 1]}, "mask 1: runs add up to 5 pixels, but its size 2x3 has 6"),
        ({"size": [2, 3], "counts": [4, -1, 3]}, "mask 1: run of negative length -1"),
        ({"size": [3, 2], "counts": [6]}, r"different sizes: \[\(2, 3\), \(3, 2\)\]"),
        ({"size": [2, 3], "counts": "2 2"}, "mask 1: .*is not COCO's compressed RLE"),
        ({"size": [2, 3], "counts": "é"}, "mask 1: .*"),
        ({"size": [2, 3], "counts": ""}, "mask 1: runs add up to 0 pixels"),
    ],
    ids=["too short", "negative", "another size", "not RLE", "not ASCII", "empty text"],
)
def test_malformed_masks(rle, message):
    with pytest.raises(ValueError, match=message):
        decode_counts([{"size": [2, 3], "counts": [6]}, rle])


def test_lists_and_texts_are_the_same_runs():
    bitmap = np.random.default_rng(0).random((19, 23)) < 0.4
    flat = bitmap.flatten(order="F")
    runs = np.diff([0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1), flat.size])
    uncompressed = {"size": [19, 23], "counts": [*([0] if flat[0] else []), *runs.tolist()]}
    compressed = pycocotools.mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    assert decode_counts([uncompressed])[0].tolist() == decode_counts([compressed])[0].tolist()


def test_a_bitmap_no_larger_than_its_object():
    rng = np.random.default_rng(0)
    for _ in range(20):
        bitmap = np.zeros((13, 17), np.uint8)
        y, x = rng.integers(0, 10, 2)
        bitmap[y : y + rng.integers(1, 6), x : x + rng.integers(1, 9)] = rng.random() < 0.9
        bitmap &= rng.random(bitmap.shape) < 0.8
        cut, (left, top) = decode_cut(pycocotools.mask.encode(np.asfortranarray(bitmap)))
        again = np.zeros_like(bitmap)
        again[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
        np.testing.assert_array_equal(again, bitmap)
        if bitmap.any():
            assert cut.any(axis=0)[[0, -1]].all() and cut.any(axis=1)[[0, -1]].all()
