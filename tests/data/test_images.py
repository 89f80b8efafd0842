"""Every kind of image file that people have, against pixels that were known before they were written."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.images import as_pixels, read_image, read_image_size
from maskrcnn.data.records import DatasetError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)


def smooth(height: int = 64, width: int = 96) -> np.ndarray:
    """Colours that JPEG keeps within a few grey levels, different at each corner."""
    y, x = np.mgrid[:height, :width].astype(float)
    return np.stack([y / height, x / width, 1 - y / height], axis=2).__mul__(255).astype(np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_gray_png(tmp_path):
    pixels = read_image(saved(Image.fromarray(RAMP), tmp_path / "a.png"))
    np.testing.assert_array_equal(pixels, np.repeat(RAMP[..., None], 3, axis=2))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


def test_colour_png_is_rgb(tmp_path):
    np.testing.assert_array_equal(read_image(saved(Image.fromarray(COLOUR), tmp_path / "a.png")), COLOUR)


def test_palette(tmp_path):
    image = Image.fromarray(RAMP % 3)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)[RAMP % 3]
    np.testing.assert_array_equal(read_image(saved(image, tmp_path / "a.png")), expected)
    transparent = saved(image, tmp_path / "b.png", transparency=0)
    np.testing.assert_array_equal(read_image(transparent), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped(tmp_path, mode):
    colour = COLOUR if mode == "RGBA" else RAMP[..., None]
    image = Image.fromarray(np.dstack([colour, RAMP.T]), mode)
    expected = np.broadcast_to(colour, (16, 16, 3))
    np.testing.assert_array_equal(read_image(saved(image, tmp_path / "a.png")), expected)


def test_black_and_white(tmp_path):
    bits = RAMP > 100
    path = saved(Image.fromarray(bits), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path), np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_the_high_byte(tmp_path, suffix):
    values = (RAMP.astype(np.uint16) << 8) + 255 - RAMP
    gray = tmp_path / f"gray{suffix}"
    assert cv2.imwrite(str(gray), values)
    np.testing.assert_array_equal(read_image(gray), np.repeat(RAMP[..., None], 3, axis=2))


def test_sixteen_bit_colour_png(tmp_path):
    path = tmp_path / "colour.png"
    assert cv2.imwrite(str(path), (COLOUR[..., ::-1].astype(np.uint16) << 8) + 200)
    np.testing.assert_array_equal(read_image(path), COLOUR)


def test_values_of_more_than_sixteen_bits_are_refused(tmp_path):
    path = saved(Image.fromarray(RAMP.astype(np.float32)), tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=r"a\.tif.*floating-point.*8 bits"):
        read_image(path)
    path = saved(Image.fromarray(RAMP.astype(np.int32) << 16), tmp_path / "b.tif")
    with pytest.raises(DatasetError, match=r"b\.tif.*16 bits"):
        read_image(path)


def test_sixteen_bits_with_the_high_byte_first(tmp_path):
    """A TIFF as Macintosh programs and microscopes write it."""
    path = tmp_path / "a.tif"
    values = (RAMP.astype(">u2") << 8) + 7
    Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes()).save(path)
    assert path.read_bytes()[:2] == b"MM"
    np.testing.assert_array_equal(read_image(path), np.repeat(RAMP[..., None], 3, axis=2))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_jpeg(tmp_path, options):
    path = saved(Image.fromarray(smooth()), tmp_path / "a.jpg", quality=95, **options)
    assert np.abs(read_image(path).astype(int) - smooth()).max() < 12


def test_gray_jpeg(tmp_path):
    path = saved(Image.fromarray(smooth()).convert("L"), tmp_path / "a.jpg", quality=95)
    pixels = read_image(path)
    assert (pixels == pixels[..., :1]).all()


def test_cmyk_jpeg(tmp_path):
    path = saved(Image.fromarray(smooth()).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(path).astype(int) - smooth()).max() < 20


def test_other_formats(tmp_path):
    for suffix in (".bmp", ".webp", ".gif", ".tif", ".ppm"):
        options = {"lossless": True} if suffix == ".webp" else {}
        image = Image.fromarray(COLOUR // 64 * 64)  # few enough colours for a GIF
        path = saved(image, tmp_path / f"a{suffix}", **options)
        np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")), err_msg=suffix)


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF 2.3: "the 0th row is at the visual <row> of the image, and the 0th column is the visual <column>"."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright[:, ::-1].swapaxes(0, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright[::-1].swapaxes(0, 1),
    }[orientation]


def turned(path: Path, orientation: int, **options: object) -> Path:
    """The smooth image as a camera would store it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(as_stored(smooth(), orientation))
    return saved(Image.fromarray(stored), path, exif=exif, **options)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    """The stored grid is what the camera saw; the tag says where its first row and column are when shown upright."""
    upright, stored = smooth(), as_stored(smooth(), orientation)
    if orientation == 6:  # row 0 at the right side, column 0 at the top
        np.testing.assert_array_equal(stored[0, 0], upright[0, -1])
    if orientation == 8:  # row 0 at the left side, column 0 at the bottom
        np.testing.assert_array_equal(stored[0, 0], upright[-1, 0])
    options = {"quality": 98, "subsampling": 0} if suffix == ".jpg" else {}
    path = turned(tmp_path / f"a{suffix}", orientation, **options)
    pixels = read_image(path)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() < 12
    assert pixels.flags.c_contiguous
    assert read_image(path, orient=False).shape == stored.shape
    assert read_image_size(path) == upright.shape[:2]
    assert read_image_size(path, orient=False) == stored.shape[:2]


@pytest.mark.parametrize("suffix", [".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_other_formats(tmp_path, orientation, suffix):
    path = turned(tmp_path / f"a{suffix}", orientation, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_image(path), smooth())
    assert read_image_size(path) == (64, 96)


def test_exif_data_behind_the_pixels_of_a_png(tmp_path):
    """Where some editors of metadata put them."""
    data = turned(tmp_path / "a.png", 6).read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    path = tmp_path / "b.png"
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])  # IEND takes the last 12
    np.testing.assert_array_equal(read_image(path), smooth())
    assert read_image_size(path) == (64, 96)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_do_no_harm(tmp_path):
    data = turned(tmp_path / "a.jpg", 6, quality=98, subsampling=0).read_bytes()
    path = tmp_path / "b.jpg"
    path.write_bytes(data.replace(b"MM\x00*\x00\x00\x00\x08", b"MM\x00*\xff\xff\xff\xf0"))
    assert path.read_bytes() != data
    assert read_image(path).shape == (96, 64, 3)
    assert read_image_size(path) == (96, 64)


def test_the_bytes_of_a_file(tmp_path):
    path = saved(Image.fromarray(COLOUR), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path.read_bytes()), COLOUR)
    with pytest.raises(DatasetError, match="^50 bytes: the image cannot be decoded"):
        read_image(path.read_bytes()[:50])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pillow_images_of_every_mode(mode):
    if mode == "I;16":
        image, expected = Image.fromarray((RAMP.astype(np.uint16) << 8) + 7), np.repeat(RAMP[..., None], 3, axis=2)
    else:
        image = Image.fromarray(COLOUR).convert(mode)
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(as_pixels(image), expected)


def test_missing_file(tmp_path):
    for read in (read_image, read_image_size):
        with pytest.raises(DatasetError, match=r"nothing\.jpg: no such image file"):
            read(tmp_path / "nothing.jpg")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\0" * 100], ids=["empty", "web page", "zeros"])
def test_no_image(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (read_image, read_image_size):
        with pytest.raises(DatasetError, match=r"a\.jpg: .*(empty|not an image)"):
            read(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"thumbnail": True}], ids=str)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, -50, -3])
def test_truncated_jpeg(tmp_path, options, part):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
    options = dict(options)
    if options.pop("thumbnail", False):  # its end marker is not that of the image
        small = io.BytesIO()
        image.resize((16, 16)).save(small, "JPEG")
        exif = Image.Exif()
        exif[0x9286] = small.getvalue()
        options["exif"] = exif
    data = saved(image, tmp_path / "a.jpg", **options).read_bytes()
    path = tmp_path / "b.jpg"
    path.write_bytes(data[: int(part * len(data)) if part > 0 else part])
    with pytest.raises(DatasetError, match=r"b\.jpg"):
        read_image(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_png(tmp_path, part):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    data = saved(image, tmp_path / "a.png").read_bytes()
    path = tmp_path / "b.png"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(DatasetError, match=r"b\.png"):
        read_image(path)


def test_data_behind_a_jpeg_do_no_harm(tmp_path):
    path = saved(Image.fromarray(smooth()), tmp_path / "a.jpg")
    whole = read_image(path)
    path.write_bytes(path.read_bytes() + b"\xff\xda and the film that a telephone puts there")
    np.testing.assert_array_equal(read_image(path), whole)


def test_decompression_bomb(tmp_path):
    """A PNG whose header promises 60 000 x 60 000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    for read in (read_image, read_image_size):
        with warnings.catch_warnings(), pytest.raises(DatasetError, match=r"a\.png.*decompression bomb"):
            read(path)


def test_the_limit_for_decompression_bombs_is_pillows_own():
    assert Image.MAX_IMAGE_PIXELS == 1024**3 // 4 // 3


def test_opencv_and_pillow_agree_on_real_images(real_data):
    for path in [*sorted(real_data.glob("coco_mini/val/*.jpg"))[:20], *sorted(real_data.glob("nuclei/val/*.png"))[:10]]:
        np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")), err_msg=str(path))
