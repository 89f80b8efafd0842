"""Instance segmentation for research. Importing the package registers every built-in part."""

from maskrcnn import data, evaluation, modeling
from maskrcnn.config import load_config
from maskrcnn.engine import model_zoo
from maskrcnn.engine.predictor import Predictor
from maskrcnn.modeling import build_model

__version__ = "0.1.0"
__all__ = ["Predictor", "build_model", "data", "evaluation", "load_config", "model_zoo", "modeling"]
