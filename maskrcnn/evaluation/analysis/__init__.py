from maskrcnn.evaluation.analysis.calibration import calibration
from maskrcnn.evaluation.analysis.confusion import confusion
from maskrcnn.evaluation.analysis.errors import ERRORS
from maskrcnn.evaluation.analysis.gains import ap50, error_counts, gains
from maskrcnn.evaluation.analysis.matches import ImageMatches, Matches, match_image
from maskrcnn.evaluation.analysis.quality import panoptic_quality
from maskrcnn.evaluation.analysis.thresholds import best_f1, score_counts

__all__ = [
    "ERRORS",
    "ImageMatches",
    "Matches",
    "ap50",
    "best_f1",
    "calibration",
    "confusion",
    "error_counts",
    "gains",
    "match_image",
    "panoptic_quality",
    "score_counts",
]
