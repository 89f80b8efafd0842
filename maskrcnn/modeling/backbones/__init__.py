from maskrcnn.modeling.backbones.fpn import FPN
from maskrcnn.modeling.backbones.resnet import ResNet

__all__ = ["FPN", "ResNet"]
