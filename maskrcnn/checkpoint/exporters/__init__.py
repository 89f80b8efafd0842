"""Our weights in other layouts, one file per target."""

from maskrcnn.checkpoint.exporters import detectron2, safetensors, torchvision
from maskrcnn.checkpoint.exporters.exported import Exported, ExportFailed, write

__all__ = ["TARGETS", "ExportFailed", "Exported", "write"]

# Each takes weights in our names, whose tensors are those of the config's model, and the config.
TARGETS = {
    "safetensors": safetensors.convert,
    "detectron2": detectron2.convert,
    "torchvision": torchvision.convert,
}
