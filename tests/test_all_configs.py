"""Every published config builds, and each distinct model takes one training step on tiny images."""

import copy

import pytest
import torch

import maskrcnn
from maskrcnn.config import config_path
from maskrcnn.structures import Instances, Proposals, Sample
from maskrcnn.structures.masks import masks_of

FOLDER = config_path("demo/shapes.yaml").parents[1]
CONFIGS = sorted(
    str(path.relative_to(FOLDER))
    for path in FOLDER.rglob("*.yaml")
    if path.relative_to(FOLDER).parts[0] not in ("_base_", "published")  # fragments, and figures
)
# What makes any model small, wherever in the tree the key stands; a key that a model does not have is left alone.
SMALL = {
    "NUM_CLASSES": 3,
    "CHANNELS": 16,
    "FC_DIM": 16,
    "CONV_DIM": 16,
    "BATCH_SIZE_PER_IMAGE": 16,
    "PRE_NMS_TOPK_TRAIN": 64,
    "PRE_NMS_TOPK_TEST": 64,
    "POST_NMS_TOPK_TRAIN": 32,
    "POST_NMS_TOPK_TEST": 32,
}


def shrink(section):
    """Set the keys of SMALL throughout a config, and make anchors small."""
    for key, value in section.items():
        if isinstance(value, dict):
            shrink(value)
        elif key in SMALL:
            section[key] = SMALL[key]
        elif key == "SIZES" and "RATIOS" in section:  # of the anchors, by level
            section[key] = [[8 * 2**i for _ in level] for i, level in enumerate(value)]
    return section


def small_config(name):
    cfg = copy.deepcopy(maskrcnn.load_config(name))
    cfg.defrost()
    return shrink(cfg)


def distinct_models() -> dict[str, str]:
    """One config for each model tree, by what makes it different."""
    trees = {}
    for name in CONFIGS:
        model = small_config(name).MODEL
        model.WEIGHTS = []
        trees.setdefault(model.dump(), name)
    return {name: tree for tree, name in trees.items()}


def tiny_batch() -> list[Sample]:
    torch.manual_seed(0)
    square = [torch.tensor([8.0, 8, 40, 8, 40, 40, 8, 40]).numpy()]
    size = (64, 64)
    points = torch.tensor([24.0, 30, 2]).repeat(1, 17, 1)
    targets = Instances(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]), size, masks_of([square], size), points)
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0).long(), size, masks_of([], size), torch.zeros(0, 17, 3))
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    given = Proposals(
        torch.tensor([[6.0, 9, 41, 38], [0, 0, 20, 60]]), torch.tensor([0.9, 0.2]), size
    )  # for Fast R-CNN
    return [
        Sample(image, i, size, t, proposals=given)
        for i, (image, t) in enumerate(zip(images, (targets, nothing), strict=True))
    ]


def test_there_are_configs():
    assert len(CONFIGS) > 5


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds(name):
    cfg = maskrcnn.load_config(name, ["MODEL.NUM_CLASSES", "80"])
    with torch.device("meta"):  # shapes without memory or initialisation: 200 of them in seconds
        model = maskrcnn.build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) > 1e6


@pytest.mark.parametrize("name", distinct_models())
def test_model_takes_a_step(name):
    model = maskrcnn.build_model(small_config(name)).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.001)
    before = [p.detach().clone() for p in parameters]
    losses = model(tiny_batch())
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    assert any(not torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
