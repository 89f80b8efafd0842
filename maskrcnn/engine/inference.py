"""A model made ready for inference alone."""

from __future__ import annotations

import torch

from maskrcnn.engine.precision import Precision
from maskrcnn.modeling import Model
from maskrcnn.modeling.layers import fold_frozen_norms


def prepare_inference(model: Model, device: torch.device, precision: Precision) -> Model:
    """Move a model to its device and do once what else each image would pay for; in place, and it is not trained after.

    Frozen norms go into their convolutions, the weights get the type that they are computed in, and the layout is
    channels_last. Its state dict then has other tensors, so load weights before.
    """
    model.eval().requires_grad_(False)
    fold_frozen_norms(model)
    precision.cast_weights(model)
    return model.to(memory_format=torch.channels_last).to(device)
