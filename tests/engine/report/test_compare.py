"""A comparison shows each run's own figures and detections, puts changes in order, and says what it leaves out."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compared_runs import compared, make_pair, right_ones
from evaluated_run import evaluated_run, make_evaluated_run

from maskrcnn import cli
from maskrcnn.cli.compare import split
from maskrcnn.data import read_coco
from maskrcnn.engine.report import compare
from maskrcnn.engine.report.build import report_data
from maskrcnn.engine.report.compare import ComparedRun, comparison_data, fitting_groups, write_comparison
from maskrcnn.engine.report.differences import short_names, start_differences
from maskrcnn.engine.report.examples import changes
from maskrcnn.engine.report.results import ReportError


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def data(pair, tmp_path_factory):
    """As the page has it: out of the file that was written."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_comparison(pair.runs, path)
    return embedded(path)


@pytest.fixture(scope="module")
def of_set(data):
    (found,) = data["sets"]
    return found


def embedded(path):
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(found)


def test_the_figures_are_those_of_each_run(pair, of_set):
    assert of_set["runs"] == [0, 1]
    for i, run in enumerate((pair.first, pair.other)):
        written = json.loads((run.folder / "inference" / "coco_figures.json").read_text())
        assert of_set["classes"] == written["classes"] and of_set["objects"] == written["objects"]
        assert list(of_set["kinds"]) == ["segm", "bbox"]
        for kind, of_runs in of_set["kinds"].items():
            assert of_runs[i]["figures"] == written["kinds"][kind]["figures"]
            assert of_runs[i]["by_class"] == written["kinds"][kind]["by_class"]
            for iou, curves in written["kinds"][kind]["precision"].items():
                for curve, shown in zip(curves, of_runs[i]["precision"][iou], strict=True):
                    assert shown == (curve and pytest.approx(curve, abs=5.1e-5))
    assert of_set["kinds"]["bbox"][0]["figures"] != of_set["kinds"]["bbox"][1]["figures"]


def test_errors_f1_and_calibration_are_those_of_each_report(pair, of_set):
    for i, run in enumerate((pair.first, pair.other)):
        (own,) = report_data(run.folder, run.test_sets)["sets"]
        for kind, of_runs in of_set["kinds"].items():
            for key in ("counts", "best_f1", "calibration"):
                assert of_runs[i][key] == own["kinds"][kind][key]
            both = of_runs[i]["errors"], own["kinds"][kind]["errors"]
            gains = [[(one["name"], one["count"], one["gain"]) for one in errors["types"]] for errors in both]
            assert gains[0] == gains[1]


def test_each_picture_has_the_rows_of_each_run(pair, of_set):
    label_of = {category: label for label, category in enumerate(pair.first.dataset.category_ids)}
    assert len(of_set["pictures"]) > 12
    for picture in of_set["pictures"]:
        assert len(picture["runs"]) == 2
        for run, shown in zip((pair.first, pair.other), picture["runs"], strict=True):
            rows = [row for row in run.results if row["image_id"] == picture["image"]]
            found = shown["detections"]
            assert found["score"] == pytest.approx([row["score"] for row in rows], abs=5.1e-5)
            assert found["label"] == [label_of[row["category_id"]] for row in rows]
            boxes = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
            assert np.reshape(found["box"], (-1, 4)) == pytest.approx(np.reshape(boxes, (-1, 4)), abs=0.051)
            for kind in ("segm", "bbox"):
                assert len(found["error"][kind]) == len(found["iou"][kind]) == len(rows)
                assert len(shown["found_by"][kind]) == len(picture["objects"]["label"])


def test_a_picture_is_as_in_the_report_of_its_run(pair, of_set):
    (own,) = report_data(pair.first.folder, pair.first.test_sets)["sets"]
    by_id = {picture["image"]: picture for picture in own["pictures"]}
    both = [picture for picture in of_set["pictures"] if picture["image"] in by_id]
    assert len(both) > 5
    for picture in both:
        theirs = by_id[picture["image"]]
        shown = picture["runs"][0]
        assert {**picture["objects"], "found_by": shown["found_by"]} == theirs["objects"]
        assert shown["detections"] == theirs["detections"] and shown["quality"] == theirs["quality"]
        assert picture["webp"] == theirs["webp"]
    random = [next(g["pictures"] for g in s["groups"] if g["name"] == "random") for s in (of_set, own)]
    drawn = [[s["pictures"][i]["image"] for i in group] for s, group in zip((of_set, own), random, strict=True)]
    assert drawn[0] == drawn[1]


def test_better_and_worse_are_where_the_runs_differ_most(of_set):
    groups = {group["name"]: [of_set["pictures"][i] for i in group["pictures"]] for group in of_set["groups"]}
    assert list(groups) == ["better", "worse", "random"]

    def change(picture):
        before, after = (1.0 if run["quality"] is None else run["quality"] for run in picture["runs"])
        return after - before

    better, worse = ([change(picture) for picture in groups[name]] for name in ("better", "worse"))
    assert better == sorted(better, reverse=True) and better[-1] > 0
    assert worse == sorted(worse) and worse[-1] < 0
    empty = [not any(not crowd for crowd in picture["objects"]["crowd"]) for picture in groups["better"]]
    even = [picture["image"] % 2 == 0 for picture in groups["better"]]
    assert all(map(max, even, empty)) and any(even)  # where the other run is right: it is silent on odd images
    assert all(picture["image"] % 2 == 1 for picture in groups["worse"])


def test_changes_count_the_other_run_that_changes_most():
    quality = np.array([[0.5, 0.5, 0.2, np.nan, 0.5], [0.5, 0.6, 0.9, 0.0, 0.4], [0.5, 0.9, 0.1, np.nan, 0.5]])
    found = changes(quality, 3)
    assert found["better"] == [2, 1]  # by 0.7 and 0.4
    assert found["worse"] == [3, 2, 4]  # false detections on an image without objects are the worst
    assert changes(quality, 1)["better"] == [2] and len(found["random"]) == 3


def test_what_differs_in_the_configs(data, pair):
    assert dict(data["config"]) == {"SEED": ["0", "5"], "SOLVER.BASE_LR": [base_lr(pair.first), "0.007"]}


def base_lr(run):
    (line,) = re.findall(r"^  BASE_LR: (.*)$", (run.folder / "config.yaml").read_text(), flags=re.MULTILINE)
    return line


def start(**changed):
    git = {"commit": 40 * "a", "branch": "main", "changed": [], "more": 0}
    content = {"git": git, "processes": 1, "environment": [["torch", "2.14.1"], ["GPU", "none"]]}
    return {"facts": [["model", "x"], ["device", "cpu"]], "starts": [content | changed]}


def test_what_differs_between_the_starts():
    other = start(git={"commit": 40 * "b", "changed": ["a.py"], "more": 1}, environment=[["torch", "2.15.0"]])
    assert dict(start_differences([start(), other])) == {
        "git commit": [12 * "a", 12 * "b" + " and 2 changed files"],
        "torch": ["2.14.1", "2.15.0"],
        "GPU": ["none", None],
    }
    assert start_differences([start(), start()]) == []
    unknown = {"facts": [["device", "cuda"]], "starts": []}
    assert start_differences([start(), unknown]) == [("device", ["cpu", "cuda"])]


def test_times_and_curves_are_those_of_each_run(data, pair):
    assert data["timing"][0] == ["training", ["10 s", "10 s"]]
    for run, own in zip(data["runs"], (pair.first, pair.other), strict=True):
        assert run["evaluations"]["series"]["segm/AP"] == [own.metrics["segm/AP"]]
        assert run["training"]["series"]["total_loss"] == [2.0]
        assert run["evaluated"]["what"] == "iteration 19"
    assert [run["name"] for run in data["runs"]] == ["run", "other"] and data["title"] == "Comparison: run, other"


def test_names_are_as_short_as_they_can_be():
    assert short_names([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert short_names([Path("a/x"), Path("b/x"), Path("b/y")]) == ["a/x", "b/x", "b/y"]
    assert short_names([Path("/p/a/x"), Path("/q/a/x")]) == ["p/a/x", "q/a/x"]
    assert short_names([Path("/x"), Path("/a/x")]) == ["//x", "a/x"]


def test_groups_are_small_where_there_is_much_to_draw():
    quality = np.stack([np.full(100, 0.5), np.linspace(0, 1, 100)])
    detections = np.full(100, 20)

    def drawn(groups):
        return 20 * len({image for group in groups.values() for image in group})

    fitting, images, size = fitting_groups(quality, detections, 420)
    assert {len(group) for group in fitting.values()} == {size}
    assert images == sorted({image for group in fitting.values() for image in group})
    assert 3 < size < 12 and drawn(fitting) <= 420 < drawn(changes(quality, size + 1))
    assert fitting_groups(quality, detections, 10**6)[0] == changes(quality, 12)
    assert fitting_groups(quality, detections, 1)[0] == changes(quality, 3)


def test_masks_of_all_runs_have_one_budget(pair, monkeypatch):
    monkeypatch.setattr(compare, "MASKS", 3000)
    (found,) = comparison_data(pair.runs)["sets"]
    sides = [picture["objects"] for picture in found["pictures"]]
    sides += [run["detections"] for picture in found["pictures"] for run in picture["runs"]]
    masks = [mask for side in sides for mask in side["mask"]]
    assert 0 < sum(len(mask[-1]) for mask in masks if mask) < 3000
    assert found["left_off"] == [
        f"{masks.count(None):,} of {len(masks):,} masks are left off, the most intricate ones; "
        "their boxes are drawn instead."
    ]


def with_fewer(run, folder, change):
    """The run's data, changed, and a run on them."""
    content = json.loads(run.dataset.json_path.read_text())
    change(content)
    folder.mkdir()
    path = folder / run.dataset.json_path.name  # the same name of the set
    path.write_text(json.dumps(content))
    dataset = read_coco(path, run.dataset.image_root)
    images = set(dataset.image_ids.tolist())
    results = [row for row in run.results if row["image_id"] in images]
    return compared(evaluated_run(folder / "changed", dataset, results))


def drop_image(content):
    gone = content["images"].pop()["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]


def drop_object(content):
    del content["annotations"][0]


def move_object(content):
    content["annotations"][3]["bbox"][0] += 1


def make_crowd(content):
    """Of one region an object and the other way round, so that their number stays."""
    crowd = next(a for a in content["annotations"] if a["iscrowd"])
    plain = next(a for a in content["annotations"] if not a["iscrowd"] and a["category_id"] == crowd["category_id"])
    plain["iscrowd"], crowd["iscrowd"] = 1, 0
    plain["segmentation"], crowd["segmentation"] = crowd["segmentation"], plain["segmentation"]
    plain["bbox"], crowd["bbox"] = crowd["bbox"], plain["bbox"]


def rename(content):
    content["categories"][0]["name"] = "lion"


@pytest.mark.parametrize(
    "change, reason",
    [
        (drop_image, "its images are not those of run"),
        (drop_object, "its objects are not those of run"),
        (move_object, "its objects are not those of run"),
        (make_crowd, "its objects are not those of run"),
        (rename, "its classes are not those of run"),
    ],
)
def test_other_data_are_not_compared(pair, tmp_path, change, reason):
    data = comparison_data([compared(pair.first), with_fewer(pair.first, tmp_path / "new", change)])
    data_name = pair.first.dataset.name
    assert data["sets"] == []
    assert data["not_compared"] == [
        f"{data_name}, changed: {reason}",
        f"{data_name}, run: no other run to compare it to",
    ]
    assert len(data["runs"]) == 2 and data["runs"][1]["training"]["iterations"] == [19]


def test_a_run_without_results_takes_part_with_its_curves(pair, tmp_path):
    young = evaluated_run(tmp_path / "young", pair.first.dataset, [])
    (young.folder / "inference" / "coco_figures.json").unlink()
    data = comparison_data([compared(young), *pair.runs])
    assert data["sets"][0]["runs"] == [1, 2]
    assert data["not_compared"] == [f"{young.dataset.name}, young: it has no results; evaluate it with --eval-only"]
    assert data["runs"][0]["training"]["iterations"] == [19]
    alone = comparison_data([compared(young), compared(pair.first)])
    assert alone["sets"] == [] and len(alone["not_compared"]) == 2


def test_a_set_that_one_run_has_not_is_said(pair):
    without = ComparedRun(pair.other.folder, {"another": pair.other.dataset})
    data = comparison_data([compared(pair.first), without])
    name = pair.first.dataset.name
    assert data["sets"] == []
    assert f"{name}, other: it is not among its test sets" in data["not_compared"]
    assert "another, run: it is not among its test sets" in data["not_compared"]


def test_only_what_all_have_is_compared(pair, tmp_path):
    boxes = evaluated_run(tmp_path / "boxes", pair.first.dataset, right_ones(pair.first, masks=False))
    data = comparison_data([compared(pair.first), compared(boxes)])
    assert list(data["sets"][0]["kinds"]) == ["bbox"]
    assert data["not_compared"] == [f"{boxes.dataset.name}, boxes: it has no masks, so masks are not compared"]


def test_what_cannot_be_compared_is_refused(pair, tmp_path):
    first, other = pair.runs
    with pytest.raises(ReportError, match="1 run to compare; name at least two folders of runs"):
        comparison_data([first])
    again = ComparedRun(first.folder / ".." / "run", first.test_sets)
    with pytest.raises(ReportError, match="are the same run; name each run once"):
        comparison_data([first, other, again])
    broken = make_evaluated_run(tmp_path, images=4)
    (broken.folder / "inference" / "coco_instances_results.json").unlink()
    whole = evaluated_run(tmp_path / "whole", broken.dataset, broken.results)
    with pytest.raises(ReportError, match=r"coco_instances_results\.json is missing"):
        write_comparison([compared(whole), compared(broken)], tmp_path / "page.html")
    assert not list(tmp_path.glob("*page*"))


# ---- the command ----


def test_folders_come_before_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "A.B").mkdir()
    assert split(["a", "A.B", "DATASETS.ROOT", "b"]) == ([Path("a"), Path("A.B")], ["DATASETS.ROOT", "b"])
    assert split(["a", "RUN", "DATASETS.ROOT=b", "c"]) == ([Path("a"), Path("RUN")], ["DATASETS.ROOT=b", "c"])


def test_the_command(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [str(run.folder) for run in pair.runs]
    assert cli.main(["compare", *folders]) == 0
    assert capsys.readouterr().out == "comparison: comparison.html\n"
    assert len(embedded(tmp_path / "comparison.html")["sets"]) == 1
    assert cli.main(["compare", folders[0], "--output", "x.html", folders[1], "DATASETS.TEST", "[]"]) == 0
    assert embedded(tmp_path / "x.html")["sets"] == []  # the overrides are for all runs


def test_a_run_whose_data_are_gone_takes_part_without_them(pair, tmp_path, capsys):
    lost = make_evaluated_run(tmp_path, images=4)
    lost.dataset.json_path.unlink()
    page = tmp_path / "x.html"
    folders = [str(lost.folder), str(pair.first.folder), str(pair.other.folder)]
    assert cli.main(["compare", *folders, "--output", str(page)]) == 0
    data = embedded(page)
    (note,) = data["not_compared"]
    assert re.match(r".*run: its data cannot be read: .*instances\.json", note)
    assert data["sets"][0]["runs"] == [1, 2] and data["runs"][0]["training"]["iterations"] == [19]


def test_images_are_those_of_the_first_run_that_has_them(pair, tmp_path):
    shutil.copytree(pair.first.dataset.image_root, tmp_path / "images")
    elsewhere = read_coco(pair.first.dataset.json_path, tmp_path / "images")
    shutil.rmtree(tmp_path / "images")
    first, other = pair.runs
    moved = ComparedRun(first.folder, {elsewhere.name: elsewhere})
    (found,), (whole,) = (comparison_data([run, other])["sets"] for run in (moved, first))
    assert found == whole and len(found["pictures"]) > 12
    (found,) = comparison_data([moved, ComparedRun(other.folder, moved.test_sets)])["sets"]
    assert found["pictures"] == found["groups"] == []
    (line,) = found["left_off"]
    assert line.startswith(f"There are no pictures: {tmp_path}") and found["kinds"] == whole["kinds"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{first}"], "1 run to compare; name at least two"),
        (["{first}", "{first}/."], "are the same run"),
        (["{first}", "{here}"], "is no folder of a run: it has no config.yaml"),
        (["{first}", "{here}/missing"], "is no folder of a run: it has no config.yaml"),
        (["{first}", "{other}", "--output", "missing/x.html"], "there is no folder missing"),
        (["{first}", "{other}", "--output", "{here}"], "is a folder; name a file in it"),
        (["{first}", "{other}", "SOLVER.BASE_RL", "1"], "SOLVER.BASE_RL"),
    ],
)
def test_refusals(pair, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    names = {"first": pair.first.folder, "other": pair.other.folder, "here": tmp_path}
    assert cli.main(["compare", *(word.format(**names) for word in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_script_is_the_command():
    script = Path(__file__).resolve().parents[3] / "tools" / "compare.py"
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    )
    assert done.returncode == 0 and "usage: maskrcnn compare [-h] [--output FILE] RUN RUN ..." in done.stdout
