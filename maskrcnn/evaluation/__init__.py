from maskrcnn.evaluation.coco import CocoEvaluator, detections_to_coco
from maskrcnn.evaluation.evaluator import Evaluator, evaluate

__all__ = ["CocoEvaluator", "Evaluator", "detections_to_coco", "evaluate"]
