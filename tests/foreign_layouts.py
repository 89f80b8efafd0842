"""The names and shapes that other libraries write, by their naming rules, loop by loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """What was trained.

    Args:
        neck: "fpn", "c4", "dc5" or "trunk".
        offsets: channels of the convolutions that move the taps of deformable res3 to res5.
    """

    neck: str = "fpn"
    depth: int = 50
    groups: int = 1
    per_group: int = 64
    classes: int = 80
    masks: bool = True
    keypoints: bool = False
    heads: bool = True
    box_convs: int = 0
    gn: bool = False
    offsets: int = 0

    def convs(self) -> Iterator[tuple[int, int, str, tuple[int, ...]]]:
        """Stage 2 to 5, block, "1" to "3" or "shortcut", shape of the weight."""
        inputs = 64
        for stage, count in enumerate(BLOCKS[self.depth], start=2):
            inner, outputs = self.groups * self.per_group * 2 ** (stage - 2), 64 * 2**stage
            for block in range(count):
                if block == 0:
                    yield stage, block, "shortcut", (outputs, inputs, 1, 1)
                yield stage, block, "1", (inner, inputs, 1, 1)
                yield stage, block, "2", (inner, inner // self.groups, 3, 3)
                yield stage, block, "3", (outputs, inner, 1, 1)
                inputs = outputs

    def has_offsets(self, stage: int, conv: str) -> bool:
        return bool(self.offsets) and stage >= 3 and conv == "2"

    @property
    def features(self) -> int:
        """Channels of what RPN and RoI heads read; the heads of C4 read res5's."""
        return {"fpn": 256, "c4": 1024, "dc5": 2048}[self.neck]

    @property
    def anchors(self) -> int:
        return 3 if self.neck == "fpn" else 15

    @property
    def roi_channels(self) -> int:
        return {"fpn": 256, "c4": 2048, "dc5": 2048}[self.neck]


def norm(name: str, channels: int, *, gn: bool) -> Shapes:
    return {f"{name}.{k}": (channels,) for k in ("weight", "bias", *(() if gn else ("running_mean", "running_var")))}


def layer(name: str, *weight: int, outputs: int | None = None) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": (weight[0] if outputs is None else outputs,)}


def tensors(shapes: Shapes) -> dict[str, Tensor]:
    """Without memory of their own."""
    return {name: torch.ones(()).expand(shape) for name, shape in shapes.items()}


def detectron2(a: Architecture) -> Shapes:
    prefix = {"fpn": "backbone.bottom_up.", "c4": "backbone.", "dc5": "backbone.", "trunk": ""}[a.neck]
    s: Shapes = {f"{prefix}stem.conv1.weight": (64, 3, 7, 7), **norm(f"{prefix}stem.conv1.norm", 64, gn=a.gn)}
    for stage, block, conv, shape in a.convs():
        where = "roi_heads." if a.neck == "c4" and stage == 5 else prefix
        if a.neck == "c4" and stage == 5 and not a.heads:
            continue
        name = f"{where}res{stage}.{block}." + ("shortcut" if conv == "shortcut" else f"conv{conv}")
        s |= {f"{name}.weight": shape, **norm(f"{name}.norm", shape[0], gn=a.gn)}
        if a.has_offsets(stage, conv):
            s |= layer(f"{where}res{stage}.{block}.conv2_offset", a.offsets, shape[0], 3, 3)
    if a.neck == "trunk":
        return s | layer("linear", 1000, 2048)
    if a.neck == "fpn":
        for level in range(2, 6):
            for kind, shape in (("lateral", (256, 64 * 2**level, 1, 1)), ("output", (256, 256, 3, 3))):
                name = f"backbone.fpn_{kind}{level}"
                s |= {f"{name}.weight": shape}
                s |= norm(f"{name}.norm", 256, gn=True) if a.gn else {f"{name}.bias": (256,)}
    s |= layer("proposal_generator.rpn_head.conv", a.features, a.features, 3, 3)
    s |= layer("proposal_generator.rpn_head.objectness_logits", a.anchors, a.features, 1, 1)
    s |= layer("proposal_generator.rpn_head.anchor_deltas", 4 * a.anchors, a.features, 1, 1)
    if not a.heads:
        return s
    dim = 2048 if a.neck == "c4" else 1024
    for k in range(1, a.box_convs + 1):
        s |= {f"roi_heads.box_head.conv{k}.weight": (256, 256, 3, 3)}
        s |= norm(f"roi_heads.box_head.conv{k}.norm", 256, gn=True)
    if a.neck != "c4":
        s |= layer("roi_heads.box_head.fc1", 1024, (256 if a.box_convs else a.roi_channels) * 49)
        if not a.box_convs:
            s |= layer("roi_heads.box_head.fc2", 1024, 1024)
    s |= layer("roi_heads.box_predictor.cls_score", a.classes + 1, dim)
    s |= layer("roi_heads.box_predictor.bbox_pred", 4 * a.classes, dim)
    if a.masks:
        channels = a.roi_channels
        for k in range(1, 5 if a.neck != "c4" else 1):
            s |= {f"roi_heads.mask_head.mask_fcn{k}.weight": (256, channels, 3, 3)}
            name = f"roi_heads.mask_head.mask_fcn{k}"
            s |= norm(f"{name}.norm", 256, gn=True) if a.gn else {f"{name}.bias": (256,)}
            channels = 256
        s |= layer("roi_heads.mask_head.deconv", channels, 256, 2, 2, outputs=256)
        s |= layer("roi_heads.mask_head.predictor", a.classes, 256, 1, 1)
    if a.keypoints:
        for k in range(1, 9):
            s |= layer(f"roi_heads.keypoint_head.conv_fcn{k}", 512, 256 if k == 1 else 512, 3, 3)
        s |= layer("roi_heads.keypoint_head.score_lowres", 512, 17, 4, 4, outputs=17)
    return s


def benchmark(a: Architecture) -> Shapes:
    body, head = "backbone.body.", "roi_heads.box.feature_extractor.head."
    s: Shapes = {f"{body}stem.conv1.weight": (64, 3, 7, 7), **norm(f"{body}stem.bn1", 64, gn=a.gn)}
    for stage, block, conv, shape in a.convs():
        copies = [body]
        if a.neck == "c4" and stage == 5:
            copies = [head, *(["roi_heads.mask.feature_extractor.head."] if a.masks else [])]  # the same module, twice
        for prefix in copies:
            name = f"{prefix}layer{stage - 1}.{block}."
            if conv == "shortcut":
                s |= {f"{name}downsample.0.weight": shape, **norm(f"{name}downsample.1", shape[0], gn=a.gn)}
                continue
            deformable = a.has_offsets(stage, conv)
            s |= {f"{name}conv{conv}{'.conv' if deformable else ''}.weight": shape}
            s |= norm(f"{name}bn{conv}", shape[0], gn=a.gn)
            if deformable:
                s |= layer(f"{name}conv2.offset", a.offsets, shape[0], 3, 3)
    if a.neck == "fpn":
        for n in range(1, 5):
            for kind, shape in (("inner", (256, 128 * 2**n, 1, 1)), ("layer", (256, 256, 3, 3))):
                name = f"backbone.fpn.fpn_{kind}{n}"
                if a.gn:
                    s |= {f"{name}.0.weight": shape, **norm(f"{name}.1", 256, gn=True)}
                else:
                    s |= layer(name, *shape)
    s |= layer("rpn.head.conv", a.features, a.features, 3, 3)
    s |= layer("rpn.head.cls_logits", a.anchors, a.features, 1, 1)
    s |= layer("rpn.head.bbox_pred", 4 * a.anchors, a.features, 1, 1)
    dim = 2048 if a.neck == "c4" else 1024
    if a.box_convs:
        for k in range(a.box_convs):  # convolution, norm, ReLU
            name = "roi_heads.box.feature_extractor.xconvs"
            s |= {f"{name}.{3 * k}.weight": (256, 256, 3, 3), **norm(f"{name}.{3 * k + 1}", 256, gn=True)}
        s |= layer("roi_heads.box.feature_extractor.fc6", 1024, 256 * 49)
    elif a.neck != "c4":
        s |= layer("roi_heads.box.feature_extractor.fc6", 1024, 256 * 49)
        s |= layer("roi_heads.box.feature_extractor.fc7", 1024, 1024)
    s |= layer("roi_heads.box.predictor.cls_score", a.classes + 1, dim)
    s |= layer("roi_heads.box.predictor.bbox_pred", 4 * (a.classes + 1), dim)
    if a.masks:
        for k in range(1, 5 if a.neck != "c4" else 1):
            name = f"roi_heads.mask.feature_extractor.mask_fcn{k}"
            if a.gn:
                s |= {f"{name}.0.weight": (256, 256, 3, 3), **norm(f"{name}.1", 256, gn=True)}
            else:
                s |= layer(name, 256, 256, 3, 3)
        s |= layer(
            "roi_heads.mask.predictor.conv5_mask", 2048 if a.neck == "c4" else 256, 256, 2, 2, outputs=256
        ) | layer("roi_heads.mask.predictor.mask_fcn_logits", a.classes + 1, 256, 1, 1)
    if a.keypoints:
        for k in range(1, 9):
            s |= layer(f"roi_heads.keypoint.feature_extractor.conv_fcn{k}", 512, 256 if k == 1 else 512, 3, 3)
        s |= layer("roi_heads.keypoint.predictor.kps_score_lowres", 512, 17, 4, 4, outputs=17)
    return s


def blob(name: str, *weight: int, outputs: int | None = None) -> Shapes:
    return {f"{name}_w": weight, f"{name}_b": (weight[0] if outputs is None else outputs,)}


def blob_norm(name: str, channels: int, kinds: tuple[str, ...]) -> Shapes:
    return {f"{name}_{kind}": (channels,) for kind in kinds}


def detectron(a: Architecture, *, statistics: bool = False, momentum: bool = False) -> Shapes:
    kinds = ("gn_s", "gn_b") if a.gn else ("bn_s", "bn_b", *(("bn_rm", "bn_riv") if statistics else ()))
    s: Shapes = {"conv1_w": (64, 3, 7, 7), **blob_norm("conv1" if a.gn else "res_conv1", 64, kinds)}
    for stage, block, conv, shape in a.convs():
        name = f"res{stage}_{block}_branch" + {"shortcut": "1", "1": "2a", "2": "2b", "3": "2c"}[conv]
        s |= {f"{name}_w": shape, **blob_norm(name, shape[0], kinds)}
    if a.neck == "trunk":
        return s | blob("pred", 1000, 2048)
    last = {stage: count - 1 for stage, count in enumerate(BLOCKS[a.depth], start=2)}
    if a.neck == "fpn":
        for level in range(2, 6):
            lateral = f"fpn_inner_res{level}_{last[level]}_sum" + ("_lateral" if level < 5 else "")
            for name, shape in (
                (lateral, (256, 64 * 2**level, 1, 1)),
                (f"fpn_res{level}_{last[level]}_sum", (256, 256, 3, 3)),
            ):
                s |= {f"{name}_w": shape}
                s |= blob_norm(name, 256, ("gn_s", "gn_b") if a.gn else ("b",))
    finest = "_fpn2" if a.neck == "fpn" else ""
    s |= blob(f"conv_rpn{finest}", a.features, a.features, 3, 3)
    s |= blob(f"rpn_cls_logits{finest}", a.anchors, a.features, 1, 1)
    s |= blob(f"rpn_bbox_pred{finest}", 4 * a.anchors, a.features, 1, 1)
    dim = 2048 if a.neck == "c4" else 1024
    for k in range(1, a.box_convs + 1):
        s |= {f"head_conv{k}_w": (256, 256, 3, 3), **blob_norm(f"head_conv{k}", 256, ("gn_s", "gn_b"))}
    if a.neck != "c4":
        s |= blob("fc6", 1024, 256 * 49)
        if not a.box_convs:
            s |= blob("fc7", 1024, 1024)
    s |= blob("cls_score", a.classes + 1, dim) | blob("bbox_pred", 4 * (a.classes + 1), dim)
    if a.masks:
        for k in range(1, 5 if a.neck != "c4" else 1):
            name = f"_[mask]_fcn{k}"
            s |= {f"{name}_w": (256, 256, 3, 3)}
            s |= blob_norm(name, 256, ("gn_s", "gn_b") if a.gn else ("b",))
        s |= blob("conv5_mask", 2048 if a.neck == "c4" else 256, 256, 2, 2, outputs=256)
        s |= blob("mask_fcn_logits", a.classes + 1, 256, 1, 1)
    if a.keypoints:
        for k in range(1, 9):
            s |= blob(f"conv_fcn{k}", 512, 256 if k == 1 else 512, 3, 3)
        s |= blob("kps_score_lowres", 512, 17, 4, 4, outputs=17)
        s |= blob("kps_score", 17, 17, 4, 4)  # the fixed upsampling
    return s | ({f"{name}_momentum": shape for name, shape in s.items()} if momentum else {})


def mmdetection(a: Architecture) -> Shapes:
    kind = "gn" if a.gn else "bn"
    s: Shapes = {"backbone.conv1.weight": (64, 3, 7, 7), **norm(f"backbone.{kind}1", 64, gn=a.gn)}
    for stage, block, conv, shape in a.convs():
        where = "roi_head.shared_head." if a.neck == "c4" and stage == 5 else "backbone."
        name = f"{where}layer{stage - 1}.{block}."
        if conv == "shortcut":
            s |= {f"{name}downsample.0.weight": shape, **norm(f"{name}downsample.1", shape[0], gn=a.gn)}
            continue
        s |= {f"{name}conv{conv}.weight": shape, **norm(f"{name}{kind}{conv}", shape[0], gn=a.gn)}
        if a.has_offsets(stage, conv):
            s |= layer(f"{name}conv2.conv_offset", a.offsets, shape[0], 3, 3)
    if a.neck == "fpn":
        for n in range(4):
            for convs, shape in (("lateral", (256, 256 * 2**n, 1, 1)), ("fpn", (256, 256, 3, 3))):
                name = f"neck.{convs}_convs.{n}"
                s |= {f"{name}.conv.weight": shape}
                s |= norm(f"{name}.gn", 256, gn=True) if a.gn else {f"{name}.conv.bias": (256,)}
    s |= layer("rpn_head.rpn_conv", a.features, a.features, 3, 3)
    s |= layer("rpn_head.rpn_cls", a.anchors, a.features, 1, 1)
    s |= layer("rpn_head.rpn_reg", 4 * a.anchors, a.features, 1, 1)
    if not a.heads:
        return s
    box, mask = "roi_head.bbox_head", "roi_head.mask_head"
    for k in range(a.box_convs):
        s |= {f"{box}.shared_convs.{k}.conv.weight": (256, 256, 3, 3)}
        s |= norm(f"{box}.shared_convs.{k}.gn", 256, gn=True)
    if a.neck != "c4":
        s |= layer(f"{box}.shared_fcs.0", 1024, 256 * 49)
        if not a.box_convs:
            s |= layer(f"{box}.shared_fcs.1", 1024, 1024)
    dim = 2048 if a.neck == "c4" else 1024
    s |= layer(f"{box}.fc_cls", a.classes + 1, dim) | layer(f"{box}.fc_reg", 4 * a.classes, dim)
    if a.masks:
        for k in range(4 if a.neck != "c4" else 0):
            s |= {f"{mask}.convs.{k}.conv.weight": (256, 256, 3, 3)}
            s |= norm(f"{mask}.convs.{k}.gn", 256, gn=True) if a.gn else {f"{mask}.convs.{k}.conv.bias": (256,)}
        s |= layer(f"{mask}.upsample", 2048 if a.neck == "c4" else 256, 256, 2, 2, outputs=256)
        s |= layer(f"{mask}.conv_logits", a.classes, 256, 1, 1)
    return s
