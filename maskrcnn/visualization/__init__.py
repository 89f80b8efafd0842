"""Pictures: instances drawn on an image, several pictures on one sheet, and both as files.

Images are uint8 (H, W, 3) RGB; every function returns a new one.
"""

from maskrcnn.visualization.canvas import check_image, colour_of
from maskrcnn.visualization.files import VideoFile, save_picture
from maskrcnn.visualization.instances import draw_detections, draw_instances, draw_targets
from maskrcnn.visualization.sheets import fit, sheet

__all__ = [
    "VideoFile",
    "check_image",
    "colour_of",
    "draw_detections",
    "draw_instances",
    "draw_targets",
    "fit",
    "save_picture",
    "sheet",
]
