"""Data sets, and loaders that make batches of samples of them."""

from maskrcnn.data.datasets import dataset, read_coco
from maskrcnn.data.loader import build_test_loader, build_train_loader
from maskrcnn.data.mappers import InstanceMapper
from maskrcnn.data.records import Dataset, DatasetError, ImageRecord, ObjectRecord, concatenate
from maskrcnn.data.transforms import RandomHorizontalFlip, ResizeShortestEdge

__all__ = [
    "Dataset",
    "DatasetError",
    "ImageRecord",
    "InstanceMapper",
    "ObjectRecord",
    "RandomHorizontalFlip",
    "ResizeShortestEdge",
    "build_test_loader",
    "build_train_loader",
    "concatenate",
    "dataset",
    "read_coco",
]
