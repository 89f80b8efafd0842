import numpy as np
import pycocotools.mask
import pytest
import torch

from maskrcnn.ops import reference
from maskrcnn.ops import rle as rle_module
from maskrcnn.ops.extension import COMPILED
from maskrcnn.ops.rle import compress_counts, decompress_counts, encode_windows
from ops.implementations import with_threads

SIZE = (23, 31)


def random_bitmaps(count=30):
    """From almost empty to almost full, one of each extreme, and blocks with holes: (n, H, W)."""
    bitmaps = torch.rand(count, *SIZE) < torch.linspace(0, 1, count)[:, None, None]
    bitmaps[0], bitmaps[-1] = False, True
    bitmaps[1] = False
    bitmaps[1, 5:20, 5:25] = True
    bitmaps[1, 8:12, 9:15] = False
    bitmaps[2] = False
    bitmaps[2, :, 10:20] = True  # one run over several columns
    return bitmaps


def pycocotools_text(bitmap):
    return pycocotools.mask.encode(np.asfortranarray(bitmap.numpy().astype(np.uint8)))["counts"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, params=["compiled", "reference"])
def _implementation(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setattr(rle_module, "DEVICES", frozenset())
    elif not COMPILED:
        pytest.skip("the operators are not compiled")


def test_text_by_hand():
    # 5 -> "5"; 40 = 8 + 32 -> "X1"; 5 -> "5"; 30 - 40 = -10 = ..10110 -> "F"; 1000 - 5 = 3 + 31 * 32 -> "So0"
    counts = np.array([5, 40, 5, 30, 1000])
    assert compress_counts(counts, np.array([5])) == ["5X15FSo0"]


def test_codec_agrees_with_pycocotools():
    bitmaps = random_bitmaps()
    corners = torch.zeros(len(bitmaps), 2, dtype=torch.int64)
    counts, lengths = encode_windows(bitmaps.mT, corners, SIZE)
    texts = compress_counts(counts, lengths)
    assert [t.encode() for t in texts] == [pycocotools_text(b) for b in bitmaps]
    decoded, decoded_lengths = decompress_counts([t.encode() for t in texts])
    assert np.array_equal(decoded, counts)
    assert np.array_equal(decoded_lengths, lengths)


def test_windows_within_an_image():
    bitmaps = random_bitmaps()
    frames = torch.zeros(len(bitmaps), 40, 50, dtype=torch.bool)
    corners = torch.stack([torch.randint(0, 50 - 31 + 1, (30,)), torch.randint(0, 40 - 23 + 1, (30,))], dim=1)
    corners[-1] = torch.tensor([50 - 31, 40 - 23])
    for frame, bitmap, (x, y) in zip(frames, bitmaps, corners.tolist(), strict=True):
        frame[y : y + 23, x : x + 31] = bitmap
    texts = compress_counts(*encode_windows(bitmaps.mT, corners, (40, 50)))
    assert [t.encode() for t in texts] == [pycocotools_text(f) for f in frames]


def test_windows_beyond_the_image_are_an_error():
    columns = torch.ones(2, 5, 4, dtype=torch.bool)
    for wrong in ([1, 0], [0, 1], [-1, 0]):
        with pytest.raises(ValueError, match="^corners: row 1 is "):
            encode_windows(columns, torch.tensor([[0, 0], wrong]), (4, 5))
    counts, lengths = encode_windows(columns, torch.zeros(2, 2, dtype=torch.int64), (4, 5))
    assert counts.tolist() == [0, 20, 0, 20] and lengths.tolist() == [2, 2]


def test_large_numbers():
    counts = np.array([0, 2**31 - 1, 1, 2**40, 7, 0, 123456789])
    text = compress_counts(counts, np.array([3, 4]))
    decoded, lengths = decompress_counts([t.encode() for t in text])
    assert decoded.tolist() == counts.tolist()
    assert lengths.tolist() == [3, 4]


def test_nothing():
    none = np.zeros(0, dtype=np.int64)
    assert compress_counts(none, none) == []
    assert compress_counts(none, np.array([0, 0])) == ["", ""]
    assert [part.tolist() for part in decompress_counts([])] == [[], []]
    assert [part.tolist() for part in decompress_counts([b"", b"5", b""])] == [[5], [0, 1, 0]]
    counts, lengths = encode_windows(torch.zeros(0, 3, 4, dtype=torch.bool), torch.zeros(0, 2, dtype=torch.int64), SIZE)
    assert len(counts) == len(lengths) == 0


@pytest.mark.parametrize("text", [b"5X1 5", b"5\x7f", b"5X"], ids=["a space", "beyond the alphabet", "cut off"])
def test_text_that_is_no_rle_names_the_mask(text):
    with pytest.raises(ValueError, match="mask 1: .*is not COCO's compressed RLE"):
        decompress_counts([b"5X1", text, b"5"])


def test_any_bytes_have_the_same_answer():
    """Numbers of more than 64 bits and all other nonsense too."""
    generator = np.random.default_rng(0)
    accepted = 0
    for length in range(200):
        low, high = ((48, 112), (40, 120))[length % 10 == 9]
        text = [generator.integers(low, high, length % 23, dtype=np.uint8).tobytes() for _ in range(3)]
        try:
            expected = reference.decompress_counts(text)
        except ValueError:
            with pytest.raises(ValueError, match="^mask "):
                decompress_counts(text)
            continue
        accepted += 1
        for ours, theirs in zip(decompress_counts(text), expected, strict=True):
            assert np.array_equal(ours, theirs)
        assert compress_counts(*expected) == reference.compress_counts(*expected)
    assert 20 < accepted < 180


def test_extreme_numbers():
    extremes = np.array([2**63 - 1, -(2**63), 0, -1, 5, 2**62, -(2**62)])
    text = compress_counts(extremes, np.array([7]))
    assert text == reference.compress_counts(extremes, np.array([7]))
    assert decompress_counts([text[0].encode()])[0].tolist() == extremes.tolist()


def test_the_number_of_threads_changes_nothing():
    counts = np.random.default_rng(0).integers(0, 5000, 4000)
    lengths = np.full(100, 40)
    first, *others = with_threads(lambda: compress_counts(counts, lengths))
    assert all(first == other for other in others)
    for back, _ in with_threads(lambda: decompress_counts([text.encode() for text in first])):
        assert np.array_equal(back, counts)


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_lists_that_do_not_fit_are_an_error():
    compress, decompress = torch.ops.maskrcnn.compress_counts, torch.ops.maskrcnn.decompress_counts
    counts, text = torch.tensor([1, 2, 3]), torch.tensor([50, 51, 52], dtype=torch.uint8)
    for lengths in ([2], [2, 2], [-1, 4], [2**62, 2**62]):
        with pytest.raises(ValueError, match="^lengths: "):
            compress(counts, torch.tensor(lengths))
        with pytest.raises(ValueError, match="^lengths: "):
            decompress(text, torch.tensor(lengths))
    with pytest.raises(ValueError, match="^counts: "):
        compress(counts.float(), torch.tensor([3]))
    with pytest.raises(ValueError, match="^text: "):
        decompress(text[None], torch.tensor([3]))
    torch.library.opcheck(compress.default, (counts, torch.tensor([3])))
    torch.library.opcheck(decompress.default, (text, torch.tensor([1, 2])))
    corners = torch.zeros(2, 2, dtype=torch.int64)
    torch.library.opcheck(torch.ops.maskrcnn.encode_bitmaps.default, (torch.ones(2, 3, 4) > 0, corners, 5, 6))
