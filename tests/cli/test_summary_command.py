import importlib
import sys
from pathlib import Path

import pytest

from maskrcnn import cli

sys.path.append(str(Path(__file__).parents[1] / "engine"))
tiny_model = importlib.import_module("tiny_model")


def test_a_models_table_without_data_and_weights(tmp_path, capsys):
    arguments = ["--config", "mask_rcnn/mask_rcnn_r18_fpn_small_scratch", "DATASETS.ROOT", str(tmp_path)]
    assert cli.main(["summary", *arguments, "MODEL.NUM_CLASSES=3", "--size", "64", "96", "--depth", "1"]) == 0
    output = capsys.readouterr().out
    assert "3 classes; one image of 64 x 96 pixels" in output
    assert "\n  roi_heads " in output and "box_head" not in output


def test_any_registered_model(tmp_path, capsys):
    path = tiny_model.write_config(tmp_path, MODEL={"NUM_CLASSES": 3, "CHANNELS": 4})
    assert cli.main(["summary", "--config", str(path), "--size", "32", "32"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert lines["conv"][0] == f"{(3 * 9 * 4 + 4) / 1e6:.3f}"
    assert lines["conv"][3] == f"{4 * 16 * 16 * 4 / 1e6:.1f}"


@pytest.mark.parametrize("words", [["--size", "0", "64"], ["--depth", "-1"]])
def test_numbers_that_make_no_sense(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["summary", "--config", "demo/shapes", *words])
    assert end.value.code == 2 and words[0] in capsys.readouterr().err


def test_a_part_that_refuses_its_options(capsys):
    assert cli.main(["summary", "--config", "demo/shapes", "MODEL.ROI_HEADS.MASK_HEAD.NUM_CONVS", "-1"]) == 2
    assert "maskrcnn summary: FCNMaskHead.NUM_CONVS" in capsys.readouterr().err
