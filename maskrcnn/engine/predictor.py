"""A trained model for people with images: images in, detections in their own pixels out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from maskrcnn.checkpoint import CheckpointError, Weights, merge, newest_checkpoint, read_weights
from maskrcnn.config import load_config
from maskrcnn.data import DatasetError, InstanceMapper
from maskrcnn.data.images import ImageLike, as_pixels
from maskrcnn.data.records import ImageRecord
from maskrcnn.data.transforms import ResizeShortestEdge, from_hwc
from maskrcnn.engine.inference import prepare_inference
from maskrcnn.engine.needs import config_for
from maskrcnn.engine.precision import choose_precision
from maskrcnn.engine.state import load_weights
from maskrcnn.engine.tiles import predict_tiled
from maskrcnn.engine.views import MultiViewInference
from maskrcnn.env import pick_device
from maskrcnn.modeling import build_model
from maskrcnn.structures import Detections, Sample
from maskrcnn.visualization import check_image

CHANNELS = ("RGB", "BGR")
LOOK_AHEAD = 4  # batches that are read at a time, to find images of one size among them


class Predictor:
    """Finds objects in images.

    Args:
        run_folder_or_config: the output folder of a training run, whose newest checkpoint is taken; or a config file or
            its name, together with `weights` or a `MODEL.WEIGHTS` of the whole model.
        weights: a weights file, instead of those that the folder or the config names.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        overrides: config values, KEY VALUE in turn or KEY=VALUE.
        batch_size: images that go through the model together, where there are so many of one size.
        channels: the order that arrays and tensors come in, "RGB", or "BGR" as OpenCV reads them. Files and Pillow
            images know their own.

    Attributes:
        class_names: by label.
        category_ids: the ids that the training data had for them, by label.
        cfg: the config, complete.
        model: on the device, for inference alone (`engine.inference.prepare_inference`).
        views: of the model, with `TEST.AUGMENTATION.ENABLED`, else None.
        precision: what it computes in (`TEST.AMP`).

    Raises:
        CheckpointError: there are no weights, or not those of this model.
        ConfigError: the config is missing or wrong.
    """

    def __init__(
        self,
        run_folder_or_config: str | Path,
        *,
        weights: str | Path | None = None,
        device: str = "auto",
        overrides: Sequence[str] = (),
        batch_size: int = 4,
        channels: str = "RGB",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if channels not in CHANNELS:
            raise ValueError(f"channels is {channels!r}; choose from {', '.join(CHANNELS)}")
        self.batch_size, self.channels = batch_size, channels
        self.cfg, trained = read_trained(run_folder_or_config, weights=weights, overrides=overrides)
        self.class_names, self.category_ids = _classes(trained, self.cfg.MODEL.NUM_CLASSES)
        model = build_model(self.cfg)
        if model.outputs is not Detections:
            raise ValueError(
                f"{run_folder_or_config}: a {self.cfg.MODEL.NAME} gives {model.outputs.__name__}, and predicting is "
                "for detectors; evaluate it with TEST.EVALUATORS [proposals], which keeps them in a file"
            )
        load_weights(model, trained, strict=True)
        chosen = pick_device(device)
        self.precision = choose_precision("TEST.AMP", self.cfg.TEST.AMP, chosen)
        self.model = prepare_inference(model, chosen, self.precision)
        if self.cfg.COMPILE:
            self.model.compile_parts()
        self.views = MultiViewInference.from_config(self.cfg, self.model)
        sizes = self.cfg.INPUT
        self.resize = ResizeShortestEdge((sizes.MIN_SIZE_TEST,), sizes.MAX_SIZE_TEST, rounding=sizes.SIZE_ROUNDING)

    @overload
    def __call__(self, images: ImageLike) -> Detections: ...  # type: ignore[overload-overlap]  # str: Sequence[str]
    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[Detections]: ...
    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Detections | list[Detections]:
        """Find the objects in an image, or in each image of a list.

        Args:
            images: a path, the bytes of an image file, a numpy array uint8 (H, W, 3), a tensor uint8 (3, H, W) on any
                device, or a Pillow image of any mode; or a sequence of them, also mixed.

        Returns:
            Detections on the CPU in the pixels of the image, best first; masks are small and soft, and
            `maskrcnn.ops.paste.paste_masks(d.masks, d.boxes, d.size)` makes them bool (D, H, W). For a sequence a list
            in the same order.

        Raises:
            ValueError: what was given is no image, or a file is no whole one; says which of a sequence.
        """
        if isinstance(images, Sequence) and not isinstance(images, (str, bytes)):
            return list(self.stream(images))
        return next(self._detect([self._pixels(images)]))

    def stream(self, images: Iterable[ImageLike]) -> Iterator[Detections]:
        """The detections of each image in turn, for more images than memory holds: a generator is read as it is used.

        A few batches are read at a time, and those images in them share a batch that have one size for the network.
        """
        return self._detect(self._pixels_of(images))

    def tiled(self, image: ImageLike, *, tile: int, overlap: int | None = None) -> Detections:
        """Find the objects in an image that is so large that small ones would vanish when it is resized as a whole.

        Args:
            image: as for a call.
            tile: the side of the square tiles, in pixels of the image.
            overlap: of neighbouring tiles, in pixels: the size up to which objects are whole in one of them, while
                larger ones are found in the image as a whole. None is a quarter of `tile`.

        Returns:
            Detections in the pixels of the image, best first; more than `TEST.DETECTIONS_PER_IMAGE`, which holds for
            each tile.
        """
        return predict_tiled(self._detect, self._pixels(image), tile, tile // 4 if overlap is None else overlap)

    def on_record(self, record: ImageRecord) -> Detections:
        """Find the objects in an image of a data set, from its proposals where the data set has any.

        Raises:
            DatasetError: the image cannot be read.
            ValueError: the model reads proposals, and the record has none.
        """
        mapper = InstanceMapper([] if self.views is not None else [self.resize], training=False)
        return self._infer([mapper(record, np.random.default_rng(0))])[0]

    def _pixels_of(self, images: Iterable[ImageLike]) -> Iterator[np.ndarray]:
        for i, image in enumerate(images):
            try:
                yield self._pixels(image)
            except ValueError as error:
                raise DatasetError(f"image {i}: {error}") from error

    def _pixels(self, image: ImageLike) -> np.ndarray:
        pixels = as_pixels(image)
        check_image(pixels)
        bgr = self.channels == "BGR" and isinstance(image, (np.ndarray, Tensor))
        return pixels[:, :, ::-1] if bgr else pixels

    def _detect(self, images: Iterable[np.ndarray]) -> Iterator[Detections]:
        """Detections in uint8 (H, W, 3) RGB images, in order."""
        samples = (self._sample(pixels) for pixels in images)
        while ahead := list(islice(samples, self.batch_size * (LOOK_AHEAD if self.batch_size > 1 else 1))):
            found: dict[int, Detections] = {}
            for size in {sample.size for sample in ahead}:  # others would be padded, which changes what is found
                alike = [i for i, sample in enumerate(ahead) if sample.size == size]
                for start in range(0, len(alike), self.batch_size):
                    batch = alike[start : start + self.batch_size]
                    found |= zip(batch, self._infer([ahead[i] for i in batch]), strict=True)
            yield from (found[i] for i in range(len(ahead)))

    def _sample(self, pixels: np.ndarray) -> Sample:
        height, width = pixels.shape[:2]
        sample = Sample(image=from_hwc(np.array(pixels, order="C")), image_id=0, original_size=(height, width))
        if self.views is not None:
            return sample
        return self.resize(sample, np.random.default_rng(0))  # one size to choose from: nothing is random

    def _infer(self, batch: list[Sample]) -> list[Detections]:
        with (
            torch.no_grad(),
            self.precision.autocast(),
        ):  # not inference_mode, whose tensors nobody may change in place afterwards
            return [detections.to("cpu") for detections in (self.views or self.model).inference(batch)]


def read_trained(
    run_folder_or_config: str | Path, *, weights: str | Path | None, overrides: Sequence[str]
) -> tuple[CfgNode, Weights]:
    """The config of a trained model, with what its weights need and the number of their classes, and the weights.

    Args:
        run_folder_or_config, weights, overrides: as for `Predictor`.

    Raises:
        CheckpointError, ConfigError: as for `Predictor`.
    """
    config, found = _files_of(Path(run_folder_or_config))
    specs = (str(weights),) if weights is not None else found
    if specs is None:
        specs = tuple(load_config(config, overrides).MODEL.WEIGHTS)
    if not specs:
        raise CheckpointError(f"{config} names no weights of a trained model; give a weights file")
    trained = merge([read_weights(spec) for spec in specs])
    cfg = config_for(config, trained, overrides)
    if not cfg.MODEL.NUM_CLASSES:
        raise CheckpointError(
            f"{trained.source}: the weights do not say their classes; give their number as MODEL.NUM_CLASSES"
        )
    return cfg, trained


def _files_of(path: Path) -> tuple[Path, tuple[str, ...] | None]:
    """The config and the weights of a run's folder; of a config file, itself and None."""
    if not path.is_dir():
        return path, None
    config = path / "config.yaml"
    if not config.is_file():
        raise CheckpointError(f"{path} is not the folder of a training run: it has no config.yaml")
    newest = newest_checkpoint(path) or path / "model_final.pth"
    return config, (str(newest),)


def _classes(trained: Weights, count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and original ids by label; numbers, where the weights do not say."""
    names = trained.class_names or tuple(f"class {k}" for k in range(count))
    if len(names) != count:
        raise CheckpointError(
            f"{trained.source}: the weights know {len(names)} classes, but MODEL.NUM_CLASSES is {count}"
        )
    return names, trained.category_ids or tuple(range(1, count + 1))
