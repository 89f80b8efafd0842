"""Our own weights as safetensors: read back as they were, with what they need."""

import json
import os

import pytest
import safetensors
import safetensors.torch
import torch

import maskrcnn
from maskrcnn.checkpoint import Weights, read_weights
from maskrcnn.checkpoint.exporters import TARGETS, Exported, ExportFailed, write

SMALL = "mask_rcnn/mask_rcnn_r18_fpn_small_scratch"


def small(*overrides):
    cfg = maskrcnn.load_config(SMALL, ["MODEL.NUM_CLASSES", "2", *overrides])
    state = maskrcnn.build_model(cfg).to(memory_format=torch.channels_last).state_dict()
    return cfg, Weights(state, "ours", class_names=("cat", "dog"), category_ids=(3, 17))


def test_our_own_reader_gets_all_of_it_back(tmp_path):
    cfg, weights = small(
        "MODEL.PIXEL_MEAN", "[1, 2, 3]", "MODEL.CONVENTIONS", "torchvision", "INPUT.SIZE_ROUNDING", "longer_down"
    )
    write(tmp_path / "w.safetensors", TARGETS["safetensors"](weights, cfg))
    back = read_weights(str(tmp_path / "w.safetensors"))
    assert back.class_names == ("cat", "dog") and back.category_ids == (3, 17)
    assert back.needs["MODEL.CONVENTIONS"] == "torchvision" and back.needs["MODEL.PIXEL_MEAN"] == (1.0, 2.0, 3.0)
    assert back.needs["INPUT.SIZE_ROUNDING"] == "longer_down"
    assert back.needs["MODEL.PROPOSALS.ANCHORS.SIZES"] == ((12,), (24,), (48,), (96,))
    assert back.needs["MODEL.ROI_HEADS.BOX_HEAD.CODER.WEIGHTS"] == (10.0, 10.0, 5.0, 5.0)
    assert not any(key.startswith("MODEL.ROI_HEADS.KEYPOINT_HEAD") or key == "MODEL.WEIGHTS" for key in back.needs)
    kept = {name: values for name, values in weights.tensors.items() if "num_batches" not in name}
    assert back.tensors.keys() == kept.keys()
    assert all(torch.equal(back.tensors[name], values) for name, values in kept.items())
    again = maskrcnn.load_config(SMALL, [str(i) for pair in back.needs.items() for i in (pair[0], json.dumps(pair[1]))])
    assert again.MODEL.PIXEL_MEAN == cfg.MODEL.PIXEL_MEAN and again.MODEL.CONVENTIONS == "torchvision"
    with safetensors.safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["conventions"]) == "torchvision"


def test_classes_that_nobody_knows_stay_unknown(tmp_path):
    cfg, weights = small()
    write(tmp_path / "w.safetensors", TARGETS["safetensors"](Weights(weights.tensors, "ours"), cfg))
    back = read_weights(str(tmp_path / "w.safetensors"))
    assert back.class_names is None and back.category_ids is None and "MODEL.CONVENTIONS" in back.needs


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"before")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write(path, Exported({"a": torch.zeros(1)}, suffix))
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_an_error_of_the_system_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write(tmp_path / "nowhere" / "w.safetensors", Exported({"a": torch.zeros(1)}, ".safetensors"))


def test_the_name_must_say_the_format(tmp_path):
    with pytest.raises(ExportFailed, match=r"w\.pth: the name of this file must end in \.safetensors"):
        write(tmp_path / "w.pth", Exported({}, ".safetensors"))
