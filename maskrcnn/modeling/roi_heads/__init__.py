from maskrcnn.modeling.roi_heads.box import BoxHead, TwoFCBoxHead
from maskrcnn.modeling.roi_heads.keypoint import FCNKeypointHead, KeypointHead
from maskrcnn.modeling.roi_heads.mask import FCNMaskHead, MaskHead, MLPMaskHead
from maskrcnn.modeling.roi_heads.roi_heads import RoIHeads
from maskrcnn.modeling.roi_heads.standard import StandardRoIHeads

__all__ = [
    "BoxHead",
    "FCNKeypointHead",
    "FCNMaskHead",
    "KeypointHead",
    "MLPMaskHead",
    "MaskHead",
    "RoIHeads",
    "StandardRoIHeads",
    "TwoFCBoxHead",
]
