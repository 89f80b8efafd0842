"""Where the options stand that users of Detectron2, and of other libraries, know by another name.

A key that is not here and is accepted has the same name and meaning as in Detectron2.
"""

from __future__ import annotations

from typing import Any

from maskrcnn.config.trees import leaves

_ROI = "MODEL.ROI_HEADS"

# A key of Detectron2 -> the keys that took its place, separated by spaces. Each of them exists in a Mask R-CNN on FPN.
RENAMED = {
    "MODEL.META_ARCHITECTURE": "MODEL.NAME",
    "MODEL.RESNETS.DEPTH": "MODEL.BACKBONE.DEPTH",
    "MODEL.RESNETS.OUT_FEATURES": "MODEL.BACKBONE.OUT_FEATURES",
    "MODEL.RESNETS.NORM": "MODEL.BACKBONE.NORM",
    "MODEL.RESNETS.STRIDE_IN_1X1": "MODEL.BACKBONE.STRIDE_IN_1X1",
    "MODEL.FPN.OUT_CHANNELS": "MODEL.NECK.CHANNELS",
    "MODEL.FPN.NORM": "MODEL.NECK.NORM",
    "MODEL.FPN.IN_FEATURES": "MODEL.BACKBONE.OUT_FEATURES",
    "MODEL.ANCHOR_GENERATOR.SIZES": "MODEL.PROPOSALS.ANCHORS.SIZES",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": "MODEL.PROPOSALS.ANCHORS.RATIOS",
    "MODEL.PROPOSAL_GENERATOR.NAME": "MODEL.PROPOSALS.NAME",
    "MODEL.RPN.IN_FEATURES": "MODEL.PROPOSALS.IN_FEATURES",
    "MODEL.RPN.IOU_THRESHOLDS": "MODEL.PROPOSALS.MATCHER.NEGATIVE MODEL.PROPOSALS.MATCHER.POSITIVE",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": "MODEL.PROPOSALS.SAMPLER.BATCH_SIZE_PER_IMAGE",
    "MODEL.RPN.POSITIVE_FRACTION": "MODEL.PROPOSALS.SAMPLER.POSITIVE_FRACTION",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": "MODEL.PROPOSALS.PRE_NMS_TOPK_TRAIN",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "MODEL.PROPOSALS.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": "MODEL.PROPOSALS.POST_NMS_TOPK_TRAIN",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "MODEL.PROPOSALS.POST_NMS_TOPK_TEST",
    "MODEL.RPN.NMS_THRESH": "MODEL.PROPOSALS.NMS_THRESH",
    "MODEL.RPN.SMOOTH_L1_BETA": "MODEL.PROPOSALS.SMOOTH_L1_BETA",
    "MODEL.RPN.BBOX_REG_WEIGHTS": "MODEL.PROPOSALS.CODER.WEIGHTS",
    f"{_ROI}.NUM_CLASSES": "MODEL.NUM_CLASSES",
    f"{_ROI}.IN_FEATURES": f"{_ROI}.BOX_POOLER.IN_FEATURES {_ROI}.MASK_POOLER.IN_FEATURES",
    f"{_ROI}.BATCH_SIZE_PER_IMAGE": f"{_ROI}.SAMPLER.BATCH_SIZE_PER_IMAGE",
    f"{_ROI}.POSITIVE_FRACTION": f"{_ROI}.SAMPLER.POSITIVE_FRACTION",
    f"{_ROI}.IOU_THRESHOLDS": f"{_ROI}.MATCHER.POSITIVE",
    "MODEL.ROI_BOX_HEAD.NAME": f"{_ROI}.BOX_HEAD.NAME",
    "MODEL.ROI_BOX_HEAD.FC_DIM": f"{_ROI}.BOX_HEAD.FC_DIM",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": f"{_ROI}.BOX_HEAD.SMOOTH_L1_BETA",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": f"{_ROI}.BOX_HEAD.CODER.WEIGHTS",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": f"{_ROI}.BOX_POOLER.SIZE",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": f"{_ROI}.BOX_POOLER.SAMPLING_RATIO",
    "MODEL.ROI_MASK_HEAD.NAME": f"{_ROI}.MASK_HEAD.NAME",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": f"{_ROI}.MASK_HEAD.NUM_CONVS",
    "MODEL.ROI_MASK_HEAD.CONV_DIM": f"{_ROI}.MASK_HEAD.CONV_DIM",
    "MODEL.ROI_MASK_HEAD.NORM": f"{_ROI}.MASK_HEAD.NORM",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": f"{_ROI}.MASK_POOLER.SIZE",
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": f"{_ROI}.MASK_POOLER.SAMPLING_RATIO",
    "MODEL.ROI_KEYPOINT_HEAD.NAME": f"{_ROI}.KEYPOINT_HEAD.NAME",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": f"{_ROI}.KEYPOINT_POOLER.SIZE",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": f"{_ROI}.KEYPOINT_POOLER.SAMPLING_RATIO",
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": "DATALOADER.MIN_KEYPOINTS",
    "SOLVER.LR_SCHEDULER_NAME": "SOLVER.LR_SCHEDULE",
    "SOLVER.AMP.ENABLED": "SOLVER.AMP",
    "SOLVER.CLIP_GRADIENTS.ENABLED": "SOLVER.CLIP_GRADIENTS",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": "SOLVER.CLIP_GRADIENTS",
    "TEST.AUG.ENABLED": "TEST.AUGMENTATION.ENABLED",
    "TEST.AUG.MIN_SIZES": "TEST.AUGMENTATION.SIZES",
    "TEST.AUG.MAX_SIZE": "TEST.AUGMENTATION.MAX_SIZE",
    "TEST.AUG.FLIP": "TEST.AUGMENTATION.HFLIP",
}

# A key, or a section, of Detectron2 -> what to do here instead.
REPLACED = {
    "VERSION": "drop it: files have no version",
    "CUDNN_BENCHMARK": "drop it: the engine decides",
    "VIS_PERIOD": "drop it: training pictures are drawn at each evaluation (TEST.EVAL_PERIOD)",
    "MODEL.MASK_ON": f"name a mask head in {_ROI}.MASK_HEAD.NAME, or leave it out with an empty name",
    "MODEL.KEYPOINT_ON": f"name a keypoint head in {_ROI}.KEYPOINT_HEAD.NAME, or leave it out with an empty name",
    "MODEL.LOAD_PROPOSALS": "MODEL.PROPOSALS.NAME ProposalsFromFile reads DATASETS.PROPOSAL_FILES_TRAIN and _TEST",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": "MODEL.PROPOSALS.TOPK_TRAIN of ProposalsFromFile is that number",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": "MODEL.PROPOSALS.TOPK_TEST of ProposalsFromFile is that number",
    "MODEL.RESNETS": "options of the backbone are in MODEL.BACKBONE",
    "MODEL.FPN": "options of the feature pyramid are in MODEL.NECK",
    "MODEL.ANCHOR_GENERATOR": "options of the anchors are in MODEL.PROPOSALS.ANCHORS",
    "MODEL.PROPOSAL_GENERATOR": "options of the proposal stage are in MODEL.PROPOSALS",
    "MODEL.RPN": "options of the proposal stage are in MODEL.PROPOSALS",
    f"{_ROI}.IOU_LABELS": f"{_ROI}.MATCHER.POSITIVE and NEGATIVE say it with two thresholds",
    "MODEL.ROI_BOX_HEAD": f"options of the box head are in {_ROI}.BOX_HEAD, of its pooling in {_ROI}.BOX_POOLER",
    "MODEL.ROI_BOX_HEAD.NUM_FC": f"pick the head by {_ROI}.BOX_HEAD.NAME: TwoFCBoxHead has two",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": f"pick the head by {_ROI}.BOX_HEAD.NAME",
    "MODEL.ROI_MASK_HEAD": f"options of the mask head are in {_ROI}.MASK_HEAD, of its pooling in {_ROI}.MASK_POOLER",
    "MODEL.ROI_KEYPOINT_HEAD": f"options of the keypoint head are in {_ROI}.KEYPOINT_HEAD",
    "MODEL.SEM_SEG_HEAD": "options of the semantic head are in MODEL.SEMANTIC_HEAD",
    "INPUT.FORMAT": "drop it: images are RGB everywhere, and importers turn BGR weights round",
    "INPUT.MASK_FORMAT": "drop it: polygons and bitmaps are both read as they come",
    "DATALOADER.SAMPLER_TRAIN": "drop it: training draws from an endless shuffled order",
    "SOLVER.BIAS_LR_FACTOR": "drop it: biases learn at the rate of the weights",
    "SOLVER.WEIGHT_DECAY_BIAS": "drop it: biases decay as the weights do",
    "SOLVER.WARMUP_METHOD": "drop it: the warm-up is linear",
    "SOLVER.REFERENCE_WORLD_SIZE": "drop it: IMS_PER_BATCH is the batch over all GPUs; scale BASE_LR with it yourself",
    "TEST.EXPECTED_RESULTS": "drop it: compare with the metrics.json of a run",
}

_FREEZE = (
    "MODEL.BACKBONE.FREEZE_AT freezes the backbone's first stages, and SOLVER.LR_FACTORS with a factor of 0 all that "
    "matches a pattern: [['backbone.*', 0.0]]"
)

# What users of other libraries look for -> what does it here.
ELSEWHERE = {
    "MODEL.FREEZE": _FREEZE,
    "MODEL.BACKBONE.FREEZE": _FREEZE,
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": "MODEL.BACKBONE.FREEZE_AT does it, with the same number",
    "MODEL.BACKBONE.FROZEN_STAGES": "MODEL.BACKBONE.FREEZE_AT does it, one higher: it counts the stem",
    "MODEL.BACKBONE.NORM_EVAL": "MODEL.BACKBONE.NORM FrozenBN fixes the norms",
    "MODEL.BACKBONE.WITH_CP": "SOLVER.GRADIENT_CHECKPOINTING does it",
}


def moved(key: str, value: Any) -> str | None:
    """What to say of an unknown key that another library has: the new one; None for any other key.

    Args:
        key: full key, of an option or a section.
        value: what the file gives there; of a section, the first option that moved is named.
    """
    for leaf, _ in leaves({key: value}):
        if new := RENAMED.get(leaf):
            return f"{leaf} is Detectron2's name; here it is {' and '.join(new.split())}"
        if remedy := ELSEWHERE.get(leaf):
            return f"{leaf} is no key here; {remedy}"
        around = leaf
        while around:
            if remedy := REPLACED.get(around):
                return f"{leaf} is a key of Detectron2 that is not used here; {remedy}"
            around = around.rpartition(".")[0]
    return None
