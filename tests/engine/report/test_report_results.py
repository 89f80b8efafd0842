"""A results file read image by image, and what is said of files that are none."""

import json

import pytest

from maskrcnn.engine.folder import results_folder
from maskrcnn.engine.report.results import (
    Evaluated,
    ReportError,
    ResultsFile,
    evaluated_folder,
    read_figures,
)


def result(image, score):
    return {"image_id": image, "category_id": 1, "bbox": [1, 2, 3, 4], "score": score}


@pytest.mark.parametrize("indent", [None, 2])
def test_the_detections_of_each_image(tmp_path, indent):
    """As this package writes the file, and as others do: with spaces, and images in turns."""
    rows = [
        result(5, 0.1),
        result(3, 0.2),
        result(5, 0.3),
        {**result("a, b]", 0.4), "segmentation": {"counts": '[,"]'}},
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows, indent=indent))
    file = ResultsFile(tmp_path / "r.json")
    assert file[5] == [rows[0], rows[2]] and file[3] == [rows[1]] and file["a, b]"] == [rows[3]] and file[4] == []


@pytest.mark.parametrize("text", ["[]", " [ ] \n"])
def test_no_detections(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    assert ResultsFile(tmp_path / "r.json")[1] == []


@pytest.mark.parametrize(
    "text", ["", "{}", '{"a": [1]}', '[{"score": 1}]', "[1, 2]", '[{"image_id": 1}', "[", "nothing"]
)
def test_another_file(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ReportError, match=r"r\.json is no list of detections in COCO's form"):
        ResultsFile(tmp_path / "r.json")


def test_no_file(tmp_path):
    with pytest.raises(ReportError, match=r"r\.json is missing, .* evaluate with --eval-only"):
        ResultsFile(tmp_path / "r.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 1}', "null", "3"])
def test_figures_of_somebody_else(tmp_path, text):
    (tmp_path / "coco_figures.json").write_text(text)
    with pytest.raises(ReportError, match=r"coco_figures\.json is not what the evaluator writes"):
        read_figures(tmp_path)


def test_the_note_of_an_evaluation(tmp_path):
    note = Evaluated.now("iteration 7", 1.26)
    note.write(tmp_path)
    assert Evaluated.read(tmp_path) == note and note.seconds == 1.3 and note.when.endswith("+00:00")
    note = Evaluated.now("iteration 7", 1.26, ("a", "b"))
    note.write(tmp_path)
    assert Evaluated.read(tmp_path) == note
    for text in ("", "[]", '{"what": 1}', '{"what": "a", "when": "b", "seconds": "c"}'):
        (tmp_path / "evaluation.json").write_text(text)
        assert Evaluated.read(tmp_path) is None
    assert Evaluated.read(tmp_path / "none") is None


def test_figures_that_the_last_evaluation_has_not_left_are_not_its(tmp_path):
    for folder in (tmp_path, tmp_path / "a", tmp_path / "b"):
        folder.mkdir(exist_ok=True)
        (folder / "coco_figures.json").touch()
    one, several = ["a"], ["a", "b", "c"]
    assert evaluated_folder(tmp_path, "a", one) == tmp_path  # there is no note
    for figures, expected in [
        (None, [tmp_path, tmp_path / "a", tmp_path / "b", None]),  # of an older version
        (("a", "b", "c"), [None, tmp_path / "a", tmp_path / "b", None]),  # that of c could not be written
        (("b",), [None, None, tmp_path / "b", None]),
        ((".",), [tmp_path, None, None, None]),
        ((), [None, None, None, None]),
    ]:
        Evaluated.now("iteration 7", 1.0, figures).write(tmp_path)
        found = [evaluated_folder(tmp_path, "a", one)]
        assert found + [evaluated_folder(tmp_path, name, several) for name in several] == expected


def test_several_sets_have_a_folder_each(tmp_path):
    assert results_folder(tmp_path, "a", ["a"]) == tmp_path
    assert results_folder(tmp_path, "a", ["a", "b"]) == tmp_path / "a"
