"""Models and their parts. Importing this package registers every built-in part."""

from maskrcnn.modeling import backbones, proposals_from_file, rpn
from maskrcnn.modeling.generalized_rcnn import GeneralizedRCNN
from maskrcnn.modeling.model import Model, build_model
from maskrcnn.modeling.proposal_network import ProposalNetwork

__all__ = ["GeneralizedRCNN", "Model", "ProposalNetwork", "backbones", "build_model", "proposals_from_file", "rpn"]
