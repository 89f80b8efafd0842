from maskrcnn.modeling.roi_heads.box import BoxHead, TwoFCBoxHead
from maskrcnn.modeling.roi_heads.mask import FCNMaskHead, MaskHead
from maskrcnn.modeling.roi_heads.roi_heads import RoIHeads
from maskrcnn.modeling.roi_heads.standard import StandardRoIHeads

__all__ = ["BoxHead", "FCNMaskHead", "MaskHead", "RoIHeads", "StandardRoIHeads", "TwoFCBoxHead"]
