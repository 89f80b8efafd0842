"""A trained model for people with images: an image in, detections in its own pixels out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from maskrcnn.checkpoint import CheckpointError, Weights, merge, newest_checkpoint, read_weights
from maskrcnn.config import load_config
from maskrcnn.data.images import read_image
from maskrcnn.data.transforms import ResizeShortestEdge, from_hwc
from maskrcnn.engine.state import load_weights
from maskrcnn.env import pick_device
from maskrcnn.modeling import build_model
from maskrcnn.structures import Detections, Sample
from maskrcnn.visualization import check_image


class Predictor:
    """Finds objects in one image at a time.

    Args:
        run_folder_or_config: the output folder of a training run, whose newest checkpoint is taken; or a config file or
            its name, together with `weights` or a `MODEL.WEIGHTS` of the whole model.
        weights: a weights file, instead of those that the folder or the config names.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        overrides: config values, KEY VALUE in turn or KEY=VALUE.

    Attributes:
        class_names: by label.
        category_ids: the ids that the training data had for them, by label.
        cfg: the config, complete.
        model: in evaluation mode, on the device.

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
    ) -> None:
        config, found = _files_of(Path(run_folder_or_config))
        specs = (str(weights),) if weights is not None else found
        if specs is None:
            specs = tuple(load_config(config, overrides).MODEL.WEIGHTS)
        if not specs:
            raise CheckpointError(f"{config} names no weights to predict with; give a weights file")
        trained = merge([read_weights(spec) for spec in specs])
        needs = [item for key, value in trained.needs.items() for item in (key, json.dumps(value))]
        self.cfg = load_config(config, [*needs, *overrides])
        if not self.cfg.MODEL.NUM_CLASSES:
            if trained.class_names is None:
                raise CheckpointError(
                    f"{trained.source}: the weights do not say their classes; give their number as MODEL.NUM_CLASSES"
                )
            count = str(len(trained.class_names))
            self.cfg = load_config(config, [*needs, *overrides, "MODEL.NUM_CLASSES", count])
        self.class_names, self.category_ids = _classes(trained, self.cfg.MODEL.NUM_CLASSES)
        model = build_model(self.cfg)
        load_weights(model, trained, strict=True)
        self.model = model.to(pick_device(device)).to(memory_format=torch.channels_last).eval()
        self.resize = ResizeShortestEdge((self.cfg.INPUT.MIN_SIZE_TEST,), self.cfg.INPUT.MAX_SIZE_TEST)

    def __call__(self, image: np.ndarray | str | Path) -> Detections:
        """Find the objects in an image.

        Args:
            image: uint8 (H, W, 3) RGB, or the path of an image file.

        Returns:
            Detections on the CPU in the pixels of `image`, best first; masks are small and soft, and
            `maskrcnn.ops.paste.paste_masks(d.masks, d.boxes, d.size)` makes them bool (D, H, W).

        Raises:
            ValueError: an array of another shape or type; or a file that is no whole image.
        """
        pixels = read_image(image) if isinstance(image, (str, Path)) else image
        check_image(pixels)
        height, width = pixels.shape[:2]
        sample = Sample(image=from_hwc(np.array(pixels, order="C")), image_id=0, original_size=(height, width))
        sample = self.resize(sample, np.random.default_rng(0))  # one size to choose from: nothing is random
        with torch.no_grad():  # not inference_mode, whose tensors nobody may change in place afterwards
            detections: Detections = self.model.inference([sample])[0]
        return detections.to("cpu")


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
