"""Annotation files checked: by the reader before training, and by `maskrcnn check_data`."""

from maskrcnn.data.checking.check import check_coco
from maskrcnn.data.checking.problems import KINDS, POLICIES, Policy, Problem
from maskrcnn.data.checking.report import Report, error_message, json_of, text_of, warnings_of
from maskrcnn.data.checking.splits import compare

__all__ = [
    "KINDS",
    "POLICIES",
    "Policy",
    "Problem",
    "Report",
    "check_coco",
    "compare",
    "error_message",
    "json_of",
    "text_of",
    "warnings_of",
]
