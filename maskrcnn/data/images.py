"""One reader for every image: (H, W, 3) uint8 RGB, whole, upright, or an error that names the file.

Pillow reads the header of each file. The pixels of ordinary JPEG and PNG files are decoded by OpenCV, in 60 % of
Pillow's time and to the same values; everything else (palettes, alpha, 16 bits, CMYK, other formats) by Pillow.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from maskrcnn.data.records import DatasetError

ImageLike = str | Path | bytes | np.ndarray | Tensor | Image.Image

# What Pillow's decoders raise for damaged files, by experience; UnidentifiedImageError is an OSError.
DECODE_ERRORS = (
    Image.DecompressionBombError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

# What is taken for an image where a folder is searched. Any other file that Pillow reads is read if it is named.
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"))

# A PNG without these bytes has no EXIF orientation.
PNG_EXIF = (b"eXIf", b"Raw profile type")

# EXIF orientation -> (swap rows and columns first, then reverse the rows, reverse the columns)
UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
SIDEWAYS = frozenset(orientation for orientation, (swap, _, _) in UPRIGHT.items() if swap)


def read_image(source: str | Path | bytes, *, orient: bool = True) -> np.ndarray:
    """Read an image file.

    Gray becomes three equal channels, a palette its colours, and an alpha channel is dropped. 16-bit values keep their
    high byte (v >> 8), as if the full range were used: 12-bit data in 16-bit files come out dark and should be
    rescaled beforehand. CMYK is converted without a colour profile. Of several frames or pages the first is read.

    Args:
        source: a path, or the content of a file.
        orient: turn the image as its EXIF orientation says; False gives the pixel grid as stored.

    Returns:
        uint8 (H, W, 3) RGB, contiguous and writable.

    Raises:
        DatasetError: the file is missing, truncated, no image, 32 bits deep, or so large that Pillow takes it for a
            decompression bomb.
    """
    data = source if isinstance(source, bytes) else _read_bytes(Path(source))
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = _fast_pixels(image, data)
            if pixels is None:
                pixels = _pillow_pixels(image)
            orientation = _orientation(image, data) if orient else 1
    except DECODE_ERRORS as error:
        raise _unreadable(source, data, error) from error
    return np.ascontiguousarray(_upright(pixels, orientation))


def read_image_size(path: str | Path, *, orient: bool = True) -> tuple[int, int]:
    """(h, w) of what `read_image` gives with the same arguments, from the file's header.

    Raises:
        DatasetError: the file is missing, no image, or so large that Pillow takes it for a decompression bomb.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            if image.format == "TIFF":
                image.load()  # Pillow turns TIFF files itself, and only then
            data = _read_bytes(path) if orient and image.format == "PNG" else b""
            swap = orient and _orientation(image, data) in SIDEWAYS
            width, height = image.size
    except DECODE_ERRORS as error:
        raise _unreadable(path, _read_bytes(path), error) from error
    return (width, height) if swap else (height, width)


def as_pixels(image: ImageLike) -> np.ndarray:
    """An image in any of its forms as uint8 (H, W, 3) RGB.

    Args:
        image: a path, the bytes of a file, a Pillow image of any mode (which its EXIF orientation turns upright), or a
            tensor uint8 (3, H, W) on any device. A numpy array is returned as it is.

    Raises:
        DatasetError: a file that `read_image` refuses, or a Pillow image that cannot be decoded.
        ValueError: a tensor of another shape or type, or something else.
    """
    match image:
        case np.ndarray():
            return image
        case str() | Path() | bytes():
            return read_image(image)
        case Image.Image():
            try:
                return np.ascontiguousarray(_upright(_pillow_pixels(image), _orientation(image, None)))
            except DECODE_ERRORS as error:
                raise DatasetError(f"the Pillow image cannot be decoded: {error}") from error
        case Tensor():
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
                raise ValueError(
                    "an image as a tensor is uint8, 0 to 255, of shape (3, height, width) in RGB order, not "
                    f"{str(image.dtype).removeprefix('torch.')} of shape {tuple(image.shape)}"
                )
            pixels: np.ndarray = image.permute(1, 2, 0).cpu().numpy()
            return pixels
    raise ValueError(
        "an image is a path, bytes, a numpy array (height, width, 3), a tensor (3, height, width) or a Pillow image, "
        f"not a {type(image).__name__}"
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such image file") from None
    except OSError as error:
        raise DatasetError(f"{path}: the image cannot be read: {error.strerror}") from error


def _fast_pixels(image: Image.Image, data: bytes) -> np.ndarray | None:
    """OpenCV's decoding of a plain and whole file, else None. The orientation is not applied."""
    if image.format not in ("JPEG", "MPO", "PNG") or image.mode not in ("L", "RGB") or not _is_whole(image, data):
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _is_whole(image: Image.Image, data: bytes) -> bool:
    """Whether the end marker is there: OpenCV may fill the missing part of a truncated file with gray.

    In a JPEG it must come after the last start of a scan, since a thumbnail in the header has an end of its own. Data
    behind the image can only make this False for a whole file, which then goes to Pillow.
    """
    if image.format == "PNG":
        return data.rfind(b"IEND") >= 0
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")


def _pillow_pixels(image: Image.Image) -> np.ndarray:
    """Any mode of Pillow -> uint8 (H, W, 3); raises what the decoder raises for a damaged file."""
    if image.mode.startswith("I"):  # I;16, I;16B, and I, in which older versions of Pillow open 16-bit files
        values = np.array(image)
        if values.size and not 0 <= values.min() <= values.max() <= 0xFFFF:
            raise ValueError("its values need more than 16 bits; convert it to 8 bits")
        return np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers; convert it to 8 bits")
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image, data: bytes | None) -> int:
    """The EXIF orientation, 1 if there is none; `data`, the whole file if it is at hand, is looked at for PNG only."""
    if image.format == "PNG" and data is not None and not any(mark in data for mark in PNG_EXIF):
        return 1  # Pillow would decode all pixels, to see whether EXIF data come behind them
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODE_ERRORS:  # a damaged EXIF block is no reason to lose the pixels
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    swap, reverse_rows, reverse_columns = UPRIGHT.get(orientation, (False, False, False))
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    pixels = pixels[::-1] if reverse_rows else pixels
    return pixels[:, ::-1] if reverse_columns else pixels


def _unreadable(source: str | Path | bytes, data: bytes, error: Exception) -> DatasetError:
    if isinstance(source, bytes):
        return DatasetError(f"{len(data)} bytes: {_reason(data, error)}")
    return DatasetError(f"{source}: {_reason(data, error)}; replace the file, or remove it and its records")


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the image file is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"the image is refused as a possible decompression bomb ({error})"
    if isinstance(error, Image.UnidentifiedImageError):
        hint = " (it starts like a web page)" if data.lstrip()[:1] == b"<" else ""
        return f"not an image file that Pillow can read{hint}"
    return f"the image cannot be decoded: {error}"
