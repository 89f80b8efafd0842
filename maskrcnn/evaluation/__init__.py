from maskrcnn.evaluation.cityscapes import CityscapesEvaluator
from maskrcnn.evaluation.coco import CocoEvaluator, CocoKeypointEvaluator
from maskrcnn.evaluation.evaluator import Evaluator, evaluate, evaluation_mode
from maskrcnn.evaluation.proposals import ProposalEvaluator, write_proposals
from maskrcnn.evaluation.results import detections_from_coco, detections_to_coco

__all__ = [
    "CityscapesEvaluator",
    "CocoEvaluator",
    "CocoKeypointEvaluator",
    "Evaluator",
    "ProposalEvaluator",
    "detections_from_coco",
    "detections_to_coco",
    "evaluate",
    "evaluation_mode",
    "write_proposals",
]
