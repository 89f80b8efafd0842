import re

import pytest
import torch

import maskrcnn
from maskrcnn import Predictor, cli
from maskrcnn.checkpoint import read_weights, save_checkpoint
from maskrcnn.engine.export import export

SMALL = "mask_rcnn/mask_rcnn_r18_fpn_small_scratch"


@pytest.fixture
def checkpoint(tmp_path):
    cfg = maskrcnn.load_config(SMALL, ["MODEL.NUM_CLASSES", "2"])
    content = {"model": maskrcnn.build_model(cfg).state_dict(), "class_names": ["cat", "dog"], "category_ids": [3, 17]}
    save_checkpoint(tmp_path / "trained.pth", content)
    return tmp_path / "trained.pth"


def test_safetensors_predict_as_the_checkpoint_does(checkpoint, tmp_path, capsys):
    output = tmp_path / "w.safetensors"
    words = ["--config", SMALL, "MODEL.WEIGHTS", str(checkpoint), "--to", "safetensors", "--output", str(output)]
    assert cli.main(["export", *words]) == 0
    assert f"{output} is written" in capsys.readouterr().out
    assert read_weights(str(output)).class_names == ("cat", "dog")
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    overrides = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    first, second = (Predictor(SMALL, weights=w, overrides=overrides)(image) for w in (checkpoint, output))
    assert len(first) > 0 and torch.equal(first.boxes, second.boxes) and torch.equal(first.masks, second.masks)


def test_settings_are_printed(checkpoint, tmp_path, capsys):
    words = [
        "--config",
        SMALL,
        "--to",
        "detectron2",
        "--output",
        str(tmp_path / "d2.pth"),
        f"MODEL.WEIGHTS={checkpoint}",
    ]
    assert cli.main(["export", *words]) == 0
    printed = capsys.readouterr().out
    assert "MODEL.RESNETS.STRIDE_IN_1X1: false" in printed and "labels 0, 1, ... are cat, dog" in printed
    content = torch.load(tmp_path / "d2.pth", weights_only=True)
    assert "roi_heads.mask_head.predictor.weight" in content["model"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "torchvision"], "torchvision's layout has no place for .*a stem of 32 channels"),
        (["--to", "detectron2", "MODEL.ROI_HEADS.MASK_HEAD.NUM_CONVS=3"], "weights of another architecture"),
        (["--to", "safetensors"], "must end in .safetensors"),
        (["--to", "detectron2", "MODEL.WEIGHTS=[]"], "names no weights"),
        (["--to", "detectron2", "--output", "{folder}/nowhere/w.pth"], "cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_one_message(checkpoint, tmp_path, capsys, words, message):
    output = ["--output", str(tmp_path / "w.pth")]
    words = [word.format(folder=tmp_path) for word in words]
    assert cli.main(["export", "--config", SMALL, *output, f"MODEL.WEIGHTS={checkpoint}", *words]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.startswith("maskrcnn export: ") and not (tmp_path / "w.pth").exists()


def test_an_unknown_target():
    with pytest.raises(ValueError, match="'onnx' is not one of safetensors, detectron2, torchvision"):
        export(SMALL, "w.onnx", to="onnx")
