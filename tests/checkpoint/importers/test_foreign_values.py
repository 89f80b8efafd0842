"""Tensors of Detectron2, Detectron and maskrcnn-benchmark: their colours, anchors, background, norms; their files."""

import json
import pickle
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_layouts import Architecture, benchmark, detectron, detectron2, tensors
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops.misc import FrozenBatchNorm2d as PeersFrozenNorm

import maskrcnn
from maskrcnn.checkpoint import CheckpointError, read_weights
from maskrcnn.checkpoint.importers import recognise
from maskrcnn.modeling.layers import FrozenBatchNorm2d
from maskrcnn.modeling.model import build_model

C4, FPN, TRUNK = Architecture(neck="c4"), Architecture(), Architecture(neck="trunk")
STEM = "backbone.stem.conv1"
LAYOUTS = {detectron2: "backbone.stem.conv1.weight", detectron: "conv1_w", benchmark: "backbone.body.stem.conv1.weight"}
RGB, BGR = (123.675, 116.28, 103.53), (103.53, 116.28, 123.675)
PARTS = (("objectness", 15), ("deltas", 60))  # rows
STD, NO_STD = (58.395, 57.12, 57.375), (1.0, 1.0, 1.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blue_is_the_third_colour(layout):
    state = tensors(layout(C4))
    blue_first = torch.randn(64, 3, 7, 7)
    got = recognise({**state, LAYOUTS[layout]: blue_first}).tensors[f"{STEM}.weight"]
    for theirs, ours in ((0, 2), (1, 1), (2, 0)):
        assert torch.equal(got[:, ours], blue_first[:, theirs])


def colours(state, content=None):
    """Whether the stem was turned, and the keys of the colours."""
    stem = torch.randn(64, 3, 7, 7)
    weights = recognise({**state, next(n for n in state if n.endswith("stem.conv1.weight")): stem}, content)
    turned = torch.equal(weights.tensors[f"{STEM}.weight"], stem.flip(1))
    assert turned or torch.equal(weights.tensors[f"{STEM}.weight"], stem)
    keys = ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE.STRIDE_IN_1X1")
    return turned, *(weights.needs[key] for key in keys)


def test_a_detectron2_file_that_holds_mean_and_deviation_says_its_order():
    state = tensors(detectron2(C4))
    assert colours(state) == (True, RGB, NO_STD, True)

    def holding(mean, std):
        return {**state, "pixel_mean": torch.tensor(mean).view(3, 1, 1), "pixel_std": torch.tensor(std).view(3, 1, 1)}

    assert colours(holding(BGR, NO_STD)) == (True, RGB, NO_STD, True)
    assert colours(holding((10.5, 20.5, 30.5), (1.5, 2.5, 3.5))) == (True, (30.5, 20.5, 10.5), (3.5, 2.5, 1.5), False)
    assert colours(holding(RGB, STD)) == (False, RGB, STD, False)


def test_trunks_of_detectron2():
    state = tensors(detectron2(TRUNK))
    assert colours(state) == (True, RGB, NO_STD, True)
    assert colours(state, {"__author__": "torchvision"}) == (False, RGB, STD, False)
    x101 = tensors(detectron2(Architecture(neck="trunk", depth=101, groups=32, per_group=8)))
    assert colours(x101) == (True, RGB, STD, False)


def test_trunks_with_detectrons_names():
    d1_mean = (122.7717, 115.9465, 102.9801)

    def needs(statistics, **kind):
        weights = recognise(tensors(detectron(Architecture(neck="trunk", **kind), statistics=statistics)))
        assert weights.source == "Detectron trunk"
        return [weights.needs[f"MODEL.{key}"] for key in ("PIXEL_MEAN", "PIXEL_STD", "BACKBONE.STRIDE_IN_1X1")]

    assert needs(False) == [d1_mean, NO_STD, True]
    assert needs(True) == [RGB, NO_STD, True]  # Detectron2's R-50.pkl
    assert needs(False, depth=101, groups=64, per_group=4) == [d1_mean, NO_STD, False]
    assert needs(True, depth=101, groups=32, per_group=8) == [RGB, STD, False]
    assert needs(False, gn=True) == [d1_mean, NO_STD, False]


@pytest.mark.parametrize("layout", [detectron2, detectron])
def test_a_whole_trunk_gives_a_model_its_backbone(layout):
    weights = recognise(tensors(layout(TRUNK)))
    with torch.device("meta"):
        model = build_model(
            maskrcnn.load_config("mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml", ["MODEL.NUM_CLASSES", "3"])
        )
    expected = {n: tuple(t.shape) for n, t in model.state_dict().items() if n.startswith("backbone.")}
    assert {n: tuple(t.shape) for n, t in weights.tensors.items()} == expected
    assert weights.class_names is None and "MODEL.CONVENTIONS" not in weights.needs
    # Statistics are a start for any batch norm; where they are folded, there are none to start from.
    assert weights.needs.get("MODEL.BACKBONE.NORM") == {detectron2: None, detectron: "FrozenBN"}[layout]
    assert recognise(tensors(layout(Architecture(neck="trunk", gn=True)))).needs["MODEL.BACKBONE.NORM"] == "GN"


@pytest.mark.parametrize("layout", [detectron2, detectron])
@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_proposals_alone(layout, neck):
    whole = layout(Architecture(neck=neck, masks=False))
    heads = ("roi_heads.", "fc", "cls_score", "bbox_pred", *(["res5_"] if neck == "c4" else []))
    weights = recognise(tensors({name: shape for name, shape in whole.items() if not name.startswith(heads)}))
    rest = {name for name in recognise(tensors(whole)).tensors if not name.startswith("roi_heads.")}
    assert weights.tensors.keys() == rest
    assert weights.needs["MODEL.BACKBONE.DEPTH"] == 50 and "MODEL.NUM_CLASSES" not in weights.needs
    assert weights.class_names is None


@pytest.mark.parametrize("anchors", [1, 5, 6])
def test_one_size_of_any_ratios_has_nothing_to_move(anchors):
    state = tensors(benchmark(FPN))
    state["rpn.head.cls_logits.weight"] = torch.arange(anchors).view(-1, 1, 1, 1).expand(anchors, 256, 1, 1)
    state["rpn.head.cls_logits.bias"] = torch.arange(anchors)
    assert recognise(state).tensors["proposals.objectness.bias"].tolist() == list(range(anchors))


def test_five_sizes_of_three_ratios_are_put_size_by_size():
    ratio_outer = torch.tensor([10.0 * r + s for r in range(3) for s in range(5)])
    size_outer = torch.tensor([10.0 * r + s for s in range(5) for r in range(3)])
    four = torch.tensor([0.1, 0.2, 0.3, 0.4])
    for layout, objectness, deltas in (
        (detectron, "rpn_cls_logits_{}", "rpn_bbox_pred_{}"),
        (benchmark, "rpn.head.cls_logits.{}", "rpn.head.bbox_pred.{}"),
        (
            detectron2,
            "proposal_generator.rpn_head.objectness_logits.{}",
            "proposal_generator.rpn_head.anchor_deltas.{}",
        ),
    ):
        weight, bias = ("w", "b") if layout is detectron else ("weight", "bias")
        theirs = size_outer if layout is detectron2 else ratio_outer
        state = tensors(layout(C4))
        state[objectness.format(bias)] = theirs
        state[objectness.format(weight)] = theirs[:, None, None, None].expand(15, 1024, 1, 1)
        state[deltas.format(bias)] = (theirs[:, None] + four).flatten()
        state[deltas.format(weight)] = (theirs[:, None] + four).flatten()[:, None, None, None].expand(60, 1024, 1, 1)
        got = recognise(state).tensors
        for kind in ("weight", "bias"):
            first = [got[f"proposals.{part}.{kind}"].reshape(rows, -1)[:, 0] for part, rows in PARTS]
            assert torch.equal(first[0], size_outer)
            assert torch.equal(first[1], (size_outer[:, None] + four).flatten())


@pytest.mark.parametrize("layout", [detectron, benchmark])
def test_the_background_goes_from_first_to_last(layout):
    state = tensors(layout(Architecture(classes=3)))
    logits, deltas, masks = (
        ("cls_score_b", "bbox_pred_b", "mask_fcn_logits_b")
        if layout is detectron
        else (
            "roi_heads.box.predictor.cls_score.bias",
            "roi_heads.box.predictor.bbox_pred.bias",
            "roi_heads.mask.predictor.mask_fcn_logits.bias",
        )
    )
    state |= {logits: torch.arange(4), deltas: torch.arange(16), masks: torch.arange(4)}
    got = recognise(state).tensors
    assert got["roi_heads.box_head.logits.bias"].tolist() == [1, 2, 3, 0]
    assert got["roi_heads.box_head.deltas.bias"].tolist() == list(range(4, 16))
    assert got["roi_heads.mask_head.predictor.bias"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("layout", [detectron2, detectron])
def test_one_mask_for_all_classes(layout):
    state = tensors(layout(FPN))
    name = "roi_heads.mask_head.predictor." if layout is detectron2 else "mask_fcn_logits_"
    for kind in [n for n in state if n.startswith(name)]:
        state[kind] = state[kind][:1]
    weights = recognise(state)
    assert len(weights.tensors["roi_heads.mask_head.predictor.weight"]) == 1
    assert weights.needs["MODEL.ROI_HEADS.MASK_HEAD.PREDICTS"] == "agnostic"


def scale_and_shift(got, conv):
    norm = FrozenBatchNorm2d(len(got[f"{conv}.norm.weight"]))
    norm.load_state_dict({kind: got[f"{conv}.norm.{kind}"] for kind in norm.state_dict()})
    return norm.scale_and_shift()


def test_detectrons_scale_and_shift_act_exactly():
    state = tensors(detectron(TRUNK))
    scale, shift, stem_bias = torch.randn(64) * 3, torch.randn(64), torch.randn(64)
    state |= {"res2_0_branch2b_bn_s": scale, "res2_0_branch2b_bn_b": shift}
    got = recognise(state).tensors
    acts = scale_and_shift(got, "backbone.stages.res2.0.conv2")
    assert torch.equal(acts[0], scale) and torch.equal(acts[1], shift)
    state |= {"res_conv1_bn_s": scale, "res_conv1_bn_b": shift, "conv1_b": stem_bias}
    acts = scale_and_shift(recognise(state).tensors, STEM)
    x = torch.randn(64)
    torch.testing.assert_close(x * acts[0] + acts[1], (x + stem_bias) * scale + shift)


def test_norms_of_maskrcnn_benchmark_have_no_epsilon():
    state = tensors(benchmark(FPN))
    values = {k: torch.rand(64) + 1e-3 for k in ("weight", "bias", "running_mean", "running_var")}
    state |= {f"backbone.body.layer1.0.bn1.{kind}": value for kind, value in values.items()}
    acts = scale_and_shift(recognise(state).tensors, "backbone.stages.res2.0.conv1")
    exact = values["weight"] / values["running_var"].sqrt()
    torch.testing.assert_close(acts[0], exact)
    torch.testing.assert_close(acts[1], values["bias"] - values["running_mean"] * exact)


def test_a_res5_for_masks_alone_is_refused():
    state = tensors(benchmark(C4))
    name = "roi_heads.mask.feature_extractor.head.layer4.1.conv1.weight"
    with pytest.raises(ValueError, match=rf"{name}: a res5 for masks alone"):
        recognise({**state, name: state[name] * 2})


def test_trained_norms_of_detectron2_are_told_by_their_counters():
    state = tensors(detectron2(FPN))
    for name in [n for n in state if ".fpn_" in n and n.endswith("bias")]:
        del state[name]
        conv = name.removesuffix(".bias")
        state |= {f"{conv}.norm.{k}": torch.ones(256) for k in ("weight", "bias", "running_mean", "running_var")}
    counter = {"backbone.bottom_up.res3.0.conv1.norm.num_batches_tracked": torch.tensor(9)}
    needs = recognise(state | counter).needs
    assert needs["MODEL.BACKBONE.NORM"] == needs["MODEL.NECK.NORM"] == "SyncBN"
    assert recognise(tensors(detectron2(FPN))).needs["MODEL.BACKBONE.NORM"] == "FrozenBN"


# Files


def arrays(shapes):
    return {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}


def test_a_file_of_detectron(tmp_path):
    small = Architecture(classes=3, masks=False)
    blobs = arrays(detectron(small, momentum=True))
    blobs["conv1_w"][:, 2] = 2.5
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "MODEL:\n  TYPE: generalized_rcnn\n"}, protocol=2))
    weights = read_weights(str(path))
    assert weights.tensors.keys() == recognise(tensors(detectron(small))).tensors.keys()
    stem = weights.tensors[f"{STEM}.weight"]
    assert (stem[:, 0] == 2.5).all() and (stem[:, 1:] == 0.5).all()


@pytest.mark.parametrize("wrapped", [False, True])
def test_files_of_trunks(tmp_path, wrapped):
    content = arrays(detectron(TRUNK) if not wrapped else detectron2(TRUNK))
    if wrapped:
        content = {"model": content, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=2))
    weights = read_weights(str(tmp_path / "R-50.pkl"))
    assert weights.source.endswith("(Detectron2 trunk)" if wrapped else "(Detectron trunk)")
    assert weights.needs["MODEL.BACKBONE.STRIDE_IN_1X1"] is not wrapped


def test_a_file_of_maskrcnn_benchmark(tmp_path):
    state = {f"module.{n}": t for n, t in tensors(benchmark(Architecture(classes=3, masks=False))).items()}
    state["module.rpn.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    content = {"model": state, "optimizer": {"state": {}}, "iteration": 9}
    torch.save(content, tmp_path / "m.pth")
    assert read_weights(str(tmp_path / "m.pth")).source == f"{tmp_path / 'm.pth'} (maskrcnn-benchmark detector)"


def test_a_file_of_detectron2(tmp_path):
    state = tensors(detectron2(Architecture(classes=3, masks=False)))
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 9}, tmp_path / "m.pth")
    assert read_weights(str(tmp_path / "m.pth")).needs["MODEL.NUM_CLASSES"] == 3
    torch.save({"model": {**state, "head.cls_score.weight": torch.zeros(1)}}, tmp_path / "r.pth")
    with pytest.raises(CheckpointError, match=r"r\.pth: RetinaNet's head"):
        read_weights(str(tmp_path / "r.pth"))


def test_the_pages_way_to_say_that_weights_are_for_rgb(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs/weights.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    state = tensors(detectron2(Architecture(classes=3, masks=False)))
    stem = state["backbone.bottom_up.stem.conv1.weight"] = torch.randn(64, 3, 7, 7)
    torch.save({"model": state, "iteration": 9}, "mine.pth")
    assert torch.equal(read_weights("mine.pth").tensors[f"{STEM}.weight"], stem.flip(1))
    exec(textwrap.dedent(code))
    weights = read_weights("mine_rgb.pth")
    assert torch.equal(weights.tensors[f"{STEM}.weight"], stem)
    assert weights.needs["MODEL.PIXEL_MEAN"] == RGB and weights.needs["MODEL.PIXEL_STD"] == STD


# torchvision's detector, written by the rules of the others


def random_peer():
    torch.manual_seed(0)
    peer = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=6).eval()
    for name, module in peer.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d | PeersFrozenNorm):
            module.weight.data = torch.rand_like(module.weight) * (0.2 if name.endswith("bn3") else 1)
            module.bias.data = torch.randn_like(module.bias) * 0.1
            module.running_mean.copy_(torch.randn_like(module.running_mean) * 0.1)
            module.running_var.copy_(torch.rand_like(module.running_var) + 0.1)
    return peer


def as_benchmark(state):
    """Colours turned; names of stem, FPN and heads."""
    out = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if name.startswith("backbone.body."):
            stem = "stem." if parts[2] in ("conv1", "bn1") else ""
            name = "backbone.body." + stem + ".".join(parts[2:])
            tensor = tensor.flip(1) if name == "backbone.body.stem.conv1.weight" else tensor
        elif name.startswith("backbone.fpn."):
            name = f"backbone.fpn.fpn_{parts[2].split('_')[0]}{int(parts[3]) + 1}.{parts[-1]}"
        elif name.startswith("rpn.head.conv."):
            name = f"rpn.head.conv.{parts[-1]}"
        elif name.startswith("roi_heads.mask_head."):
            name = f"roi_heads.mask.feature_extractor.mask_fcn{int(parts[2]) + 1}.{parts[-1]}"
        else:
            name = name.replace("box_head", "box.feature_extractor").replace("_predictor", ".predictor")
        out[name] = tensor
    return out


def as_detectron2(state):
    """Colours turned, background last; names throughout."""
    names = {
        "rpn.head.cls_logits": "proposal_generator.rpn_head.objectness_logits",
        "rpn.head.bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
        "roi_heads.box_head.fc6": "roi_heads.box_head.fc1",
        "roi_heads.box_head.fc7": "roi_heads.box_head.fc2",
        "roi_heads.mask_predictor.conv5_mask": "roi_heads.mask_head.deconv",
        "roi_heads.mask_predictor.mask_fcn_logits": "roi_heads.mask_head.predictor",
    }
    out = {}
    for name, tensor in state.items():
        parts, (layer, _, kind) = name.split("."), name.rpartition(".")
        if layer == "roi_heads.box_predictor.cls_score":
            tensor = torch.cat([tensor[1:], tensor[:1]])
        elif layer == "roi_heads.box_predictor.bbox_pred":
            tensor = tensor[4:]
        elif layer == "roi_heads.mask_predictor.mask_fcn_logits":
            tensor = tensor[1:]
        if name.startswith("backbone.body."):
            new = [p.replace("layer", "") for p in parts[2:-1]]
            if parts[2].startswith("layer"):
                new[0] = f"res{int(new[0]) + 1}"
            else:
                new = ["stem", *new]
                tensor = tensor.flip(1) if layer.endswith("conv1") else tensor
            if "downsample" in new:
                new[-2:] = ["shortcut"] if new[-1] == "0" else ["shortcut", "norm"]
            elif new[-1].startswith("bn"):
                new[-1:] = [f"conv{new[-1][-1]}", "norm"]
            name = ".".join(["backbone.bottom_up", *new, kind])
        elif name.startswith("backbone.fpn."):
            name = f"backbone.fpn_{ {'inner': 'lateral', 'layer': 'output'}[parts[2][:5]] }{int(parts[3]) + 2}.{kind}"
        elif name.startswith("rpn.head.conv."):
            name = f"proposal_generator.rpn_head.conv.{kind}"
        elif name.startswith("roi_heads.mask_head."):
            name = f"roi_heads.mask_head.mask_fcn{int(parts[2]) + 1}.{kind}"
        else:
            name = f"{names.get(layer, layer)}.{kind}"
        out[name] = tensor
    return out


@pytest.mark.parametrize(("written", "epsilon"), [(as_benchmark, 0.0), (as_detectron2, 1e-5)])
def test_the_same_network_as_torchvisions(written, epsilon):
    peer = random_peer()
    for module in peer.modules():
        if hasattr(module, "running_var"):
            module.eps = epsilon
    weights = recognise(written(peer.state_dict()))
    needs = {k: v for k, v in weights.needs.items() if k != "MODEL.CONVENTIONS"}
    needs |= {"MODEL.BACKBONE.STRIDE_IN_1X1": False, "MODEL.BACKBONE.NORM": "FrozenBN"}  # as torchvision's
    overrides = [item for key, value in needs.items() for item in (key, json.dumps(value))]
    ours = build_model(maskrcnn.load_config("mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml", overrides)).eval()
    ours.load_state_dict(dict(weights.tensors))

    images, rois = torch.randn(1, 3, 64, 96), torch.randn(3, 256, 7, 7)
    with torch.inference_mode():
        theirs, mine = peer.backbone(images), ours.neck(ours.backbone(images))
        for theirs_name, name in zip(theirs, mine, strict=True):
            torch.testing.assert_close(mine[name], theirs[theirs_name])
        logits, deltas = peer.rpn.head(list(theirs.values()))
        for got, expected in ((ours.proposals(mine)[0], logits), (ours.proposals(mine)[1], deltas)):
            flat = [e.permute(0, 2, 3, 1).reshape(g.shape) for g, e in zip(got, expected, strict=True)]
            torch.testing.assert_close(torch.cat(got, 1), torch.cat(flat, 1))
        got_logits, got_deltas = ours.roi_heads.box_head(rois)
        expected_logits, expected_deltas = peer.roi_heads.box_predictor(peer.roi_heads.box_head(rois))
        torch.testing.assert_close(got_logits, expected_logits.roll(-1, dims=1))
        torch.testing.assert_close(got_deltas, expected_deltas.unflatten(1, (-1, 4))[:, 1:])
        expected_masks = peer.roi_heads.mask_predictor(peer.roi_heads.mask_head(rois))[:, 1:]
        torch.testing.assert_close(ours.roi_heads.mask_head(rois), expected_masks)
