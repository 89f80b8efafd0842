from maskrcnn.modeling.roi_heads.box import BoxHead, ConvFCBoxHead, PooledBoxHead, TwoFCBoxHead
from maskrcnn.modeling.roi_heads.c4 import C4RoIHeads, RoIStage
from maskrcnn.modeling.roi_heads.keypoint import FCNKeypointHead, KeypointHead
from maskrcnn.modeling.roi_heads.mask import FCNMaskHead, MaskHead, MLPMaskHead
from maskrcnn.modeling.roi_heads.roi_heads import RoIHeads
from maskrcnn.modeling.roi_heads.standard import StandardRoIHeads

__all__ = [
    "BoxHead",
    "C4RoIHeads",
    "ConvFCBoxHead",
    "FCNKeypointHead",
    "FCNMaskHead",
    "KeypointHead",
    "MLPMaskHead",
    "MaskHead",
    "PooledBoxHead",
    "RoIHeads",
    "RoIStage",
    "StandardRoIHeads",
    "TwoFCBoxHead",
]
