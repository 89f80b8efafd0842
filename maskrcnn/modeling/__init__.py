"""Models and their parts. Importing this package registers every built-in part."""

from maskrcnn.modeling import backbones, rpn
from maskrcnn.modeling.generalized_rcnn import GeneralizedRCNN
from maskrcnn.modeling.model import Model, build_model

__all__ = ["GeneralizedRCNN", "Model", "backbones", "build_model", "rpn"]
