import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from maskrcnn.config import load_config
from maskrcnn.engine.summary import module_costs, summarize, two_stage_costs
from maskrcnn.modeling import build_model
from maskrcnn.modeling.backbones import ResNet
from maskrcnn.modeling.layers import ConvNorm
from maskrcnn.structures import Sample

MASK_RCNN = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco"
SMALL = ["MODEL.BACKBONE.DEPTH", "18", "MODEL.PROPOSALS.POST_NMS_TOPK_TEST", "40", "TEST.DETECTIONS_PER_IMAGE", "7"]


class Several(nn.Module):
    """A layer of each kind, a norm inside and one beside, a product without a layer, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.first = ConvNorm(3, 4, 3, norm="GN", stride=2)
        self.unused = nn.ModuleDict({"linear": nn.Linear(9, 9)})
        self.parts = nn.ModuleList([nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.ConvTranspose2d(6, 2, 2, stride=2)])
        self.twice = nn.Linear(5, 5, bias=False).requires_grad_(False)

    def forward(self, x):
        x = self.first(x)
        for part in self.parts:
            x = part(x)
        x = self.twice(F.adaptive_avg_pool2d(x, (2, 5)))
        return {"product": self.twice(x).flatten(1) @ torch.ones(20, 11)}


def test_each_layer_against_a_count_by_hand():
    model = Several().train()
    costs = module_costs(model, lambda: model(torch.zeros(2, 3, 8, 12)))
    first = 2 * (4 * 6) * 4 * (3 * 3 * 3)  # images, pixels of the output, its channels, what each of these adds up
    grouped = 2 * (4 * 6) * 6 * (2 * 3 * 3)
    transposed = 2 * (4 * 6) * 6 * (2 * 2 * 2)  # pixels of the input, its channels, what each of these adds to
    twice = 2 * (2 * 2 * 2) * 5 * 5
    product = 2 * 20 * 11
    assert costs["first"].multiply_adds == first
    assert costs["parts.0"].multiply_adds == grouped and costs["parts.1"].multiply_adds == transposed
    assert costs["parts"].multiply_adds == grouped + transposed  # never called itself
    assert costs["twice"].multiply_adds == twice
    assert costs[""].multiply_adds == first + grouped + transposed + twice + product

    maps = 2 * (4 * 6)
    assert costs["first"].activations == 2 * maps * 4  # before its norm and behind it
    assert costs["parts"].activations == maps * 6 + 4 * maps * 2
    assert costs["twice"].activations == 2 * (2 * 2 * 2 * 5)

    assert costs["parts"].parameters == (6 * 2 * 9 + 6) + (6 * 2 * 4 + 2)
    assert (costs["twice"].parameters, costs["twice"].trained) == (25, 0)
    assert costs[""].parameters == costs[""].trained + 25
    unused = costs["unused"]
    assert (unused.parameters, unused.multiply_adds, unused.activations) == (90, 0, 0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_resnet_50_costs_what_is_published(norm):
    """torchvision's page has the numbers with the classifier: 2048 x 1000 multiply-adds, and as many weights + 1000."""
    backbone = ResNet(depth=50, norm=norm, freeze_at=0).eval()
    costs = module_costs(backbone, lambda: backbone(torch.zeros(1, 3, 224, 224)))[""]
    published = ResNet50_Weights.IMAGENET1K_V1.meta
    assert (costs.multiply_adds + 2048 * 1000) / 1e9 == pytest.approx(published["_ops"], abs=5e-4)
    norms = 2 * 26560 if norm == "FrozenBN" else 0  # a frozen one has buffers: of channels of all convolutions, 2 each
    assert costs.parameters + norms + 2049 * 1000 == published["num_params"]


def test_mask_rcnn_has_the_parameters_that_are_published():
    """torchvision's has 91 classes with the background, for which it also predicts a box and a mask; ours does not."""
    model = build_model(load_config(MASK_RCNN, ["MODEL.NUM_CLASSES", "90"]))
    published = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["num_params"]
    assert module_costs(model, lambda: None)[""].parameters == published - 4 * 1025 - 257


def test_the_heads_cost_what_their_numbers_of_regions_cost():
    model = build_model(load_config(MASK_RCNN, [*SMALL, "MODEL.NUM_CLASSES", "3"])).eval()
    sample = Sample(torch.zeros(3, 64, 90, dtype=torch.uint8), image_id=0, original_size=(64, 90))
    costs, proposals = two_stage_costs(model, sample, 40)
    assert proposals == 40
    box_head = 256 * 7 * 7 * 1024 + 1024 * 1024 + 1024 * 4 + 1024 * 4 * 3
    assert costs["roi_heads.box_head"].multiply_adds == 40 * box_head
    mask_head = 4 * 14 * 14 * 256 * 256 * 9 + 14 * 14 * 256 * 256 * 4 + 28 * 28 * 256 * 3
    assert costs["roi_heads.mask_head"].multiply_adds == 7 * mask_head
    assert costs["roi_heads"].multiply_adds == 40 * box_head + 7 * mask_head
    assert costs["roi_heads.mask_pooler"].activations == 7 * 256 * 14 * 14
    cells = sum(-(-64 // stride) * -(-96 // stride) for stride in (4, 8, 16, 32, 64))  # 90 is padded to 96
    assert costs["proposals"].multiply_adds == cells * (256 * 256 * 9 + 256 * 3 + 256 * 12)


def rows_of(text):
    heading, _, *lines = text.splitlines()
    return heading, {line.split()[0]: line.split()[1:] for line in lines}


def test_the_table_states_what_it_counted(tmp_path):
    cfg = load_config(MASK_RCNN, [*SMALL, "INPUT.MIN_SIZE_TEST", "64", 'SOLVER.LR_FACTORS=[["neck.*", 0.0]]'])
    heading, rows = rows_of(summarize(cfg))
    for part in ("GeneralizedRCNN", "80 classes (MODEL.NUM_CLASSES is 0", "64 x 85", "40 proposals, 7 detections"):
        assert part in heading
    assert rows["neck"][1] == "0.000" and float(rows["neck"][0]) > 0  # frozen
    parts = ("backbone", "neck", "proposals", "roi_heads")
    for column in range(4):
        assert float(rows["GeneralizedRCNN"][column]) == pytest.approx(
            sum(float(rows[p][column]) for p in parts), abs=0.2
        )
    assert "box_head" in rows and "fc1" not in rows
    heading, rows = rows_of(summarize(cfg, size=(32, 32), depth=0))
    assert "32 x 32" in heading and set(rows) == {"module", "GeneralizedRCNN"}
