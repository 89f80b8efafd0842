"""What is embedded in the page equals what the evaluator computed, and the pictures are of what was evaluated."""

import base64
import itertools
import json
import logging
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_sets import CATEGORIES, SIZE, compressed
from evaluated_run import evaluated_run, make_evaluated_run
from pycocotools import mask as coco_mask

from maskrcnn import cli
from maskrcnn.data import read_coco
from maskrcnn.engine.hooks import Reporting
from maskrcnn.engine.report import build
from maskrcnn.engine.report.analysed import match
from maskrcnn.engine.report.build import report_data, report_on, write_report
from maskrcnn.engine.report.examples import left_off
from maskrcnn.engine.report.results import Evaluated, ReportError, Results
from maskrcnn.evaluation.analysis import ERRORS, gains, panoptic_quality
from maskrcnn.evaluation.coco import ground_truth, run_coco

K = len(CATEGORIES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_evaluated_run(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture(scope="module")
def data(run):
    """As the page has it: out of the file that was written."""
    text = write_report(run.folder, run.test_sets).read_text(encoding="utf-8")
    (embedded,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(embedded)


@pytest.fixture(scope="module")
def of_set(data):
    (found,) = data["sets"]
    return found


def of_kind(run, kind):
    return run_coco(ground_truth(run.dataset), run.results, kind, (1, 10, 100))


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_the_figures_are_the_evaluators(run, of_set, kind):
    found = of_set["kinds"][kind]
    assert found["figures"] == {
        name.removeprefix(f"{kind}/"): value
        for name, value in run.metrics.items()
        if name.startswith(f"{kind}/") and not name.startswith(f"{kind}/AP-")
    }
    assert [row[0] for row in found["by_class"]["rows"]] == [run.metrics[f"{kind}/AP-{n}"] for n in of_set["classes"]]
    assert found["errors"]["ap50"] == pytest.approx(run.metrics[f"{kind}/AP50"], abs=1e-9)
    assert 0 < found["errors"]["ap50"] < 100


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_recall_and_precision_over_the_score_end_where_the_evaluators_do(run, of_set, kind):
    """At threshold 0 the recall is COCO's at IoU 0.5, and the last precision of its curve is TP / (TP + FP) there."""
    found = of_set["kinds"][kind]
    true, false = (np.array(found["counts"][name]) for name in ("true", "false"))
    assert true.shape == (K, 101)
    _, recall = of_kind(run, kind)
    objects = of_set["objects"]
    for k in range(K - 1):
        assert true[k].sum() / objects[k] == pytest.approx(recall[0, k, 0, -1])
    ignored = len(run.results) - true.sum() - false.sum()
    assert 0 < ignored < len(run.results) / 4  # in crowd regions


def test_pairs_of_the_confusion_matrix_are_all_detections_that_count(of_set):
    for found in of_set["kinds"].values():
        pairs = sum(sum(cells[1::2]) for _, _, cells in found["confusion"])
        assert pairs == np.sum(found["counts"]["true"]) + np.sum(found["counts"]["false"])
        assert np.sum(found["calibration"]["count"]) == pairs


def test_the_errors_are_all_detections_that_are_wrong(of_set):
    for found in of_set["kinds"].values():
        assert [entry["name"] for entry in found["errors"]["types"]] == list(ERRORS)
        wrong = sum(entry["count"] for entry in found["errors"]["types"] if entry["name"] != "missed")
        assert wrong == np.sum(found["counts"]["false"])
        assert all(sum(entry["by_class"]) == entry["count"] for entry in found["errors"]["types"])


def test_examples_are_errors_of_their_type_the_surest_first(of_set):
    shown = 0
    for kind, found in of_set["kinds"].items():
        for entry in found["errors"]["types"]:
            pictures = of_set["pictures"]
            if entry["name"] == "missed":
                for picture, row in entry["examples"]:
                    assert pictures[picture]["objects"]["found_by"][kind][row] == -1
                    assert not pictures[picture]["objects"]["crowd"][row]
                continue
            scores = []
            for picture, row in entry["examples"]:
                assert pictures[picture]["detections"]["error"][kind][row] == entry["name"]
                scores.append(pictures[picture]["detections"]["score"][row])
            assert scores == sorted(scores, reverse=True)
            assert bool(scores) == (entry["count"] > 0)
            shown += len(scores)
    assert shown > 20


def test_the_overlaps_are_those_that_the_types_ask_for(of_set):
    limits = {"": (0.5, 1), "loc": (0.1, 0.5), "cls": (0.5, 1), "both": (0.1, 0.5), "dup": (0.5, 1), "bkg": (0, 0.1)}
    for picture in of_set["pictures"]:
        for kind, errors in picture["detections"]["error"].items():
            for error, iou in zip(errors, picture["detections"]["iou"][kind], strict=True):
                low, high = limits.get(error, (0, 1))  # those in crowd regions have none of interest
                assert low - 0.001 <= iou <= high + 0.001  # rounded


def test_gains_stand_under_their_names_and_missed_objects_the_largest_first(run, of_set):
    (dataset,) = run.test_sets.values()
    matches = match(Results(dataset, run.folder / "inference"), ["segm", "bbox"])
    for kind, found in of_set["kinds"].items():
        expected = gains(matches[kind])
        assert {entry["name"]: entry["gain"] for entry in found["errors"]["types"]} == {n: expected[n] for n in ERRORS}
        assert found["errors"]["gain_false"] == expected["false_positives"]
        assert found["errors"]["gain_missed"] == expected["false_negatives"]
        missed = next(entry for entry in found["errors"]["types"] if entry["name"] == "missed")
        areas = []
        for place, row in missed["examples"]:
            image = of_set["pictures"][place]["image"]
            own = [a for a in ground_truth(dataset)["annotations"] if a["image_id"] == image]
            areas.append(own[row]["area"])
        assert areas == sorted(areas, reverse=True)


def test_a_stop_is_heard_between_pictures(run):
    """After all images were compared, so that only the pictures are left to ask."""
    asked_for = itertools.count()
    stop_at = len(run.dataset) + 2
    with pytest.raises(ReportError, match="asked to stop"):
        write_report(run.folder, run.test_sets, stop=lambda: next(asked_for) >= stop_at)


def test_a_picture_has_the_image_its_objects_and_its_detections(run, of_set):
    truth = ground_truth(run.dataset)["annotations"]
    label_of = {category: label for label, category in enumerate(CATEGORIES)}
    records = {record.image_id: record for record in run.dataset}
    for picture in of_set["pictures"]:
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(picture["webp"]), np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape[:2] == (picture["height"], picture["width"]) == tuple(picture["size"]) == SIZE
        assert picture["file"] == records[picture["image"]].path.name
        original = cv2.imread(str(records[picture["image"]].path))
        assert np.corrcoef(original.ravel(), pixels.ravel())[0, 1] > 0.5  # noise is what compression keeps worst
        for name, rows in (("objects", truth), ("detections", run.results)):
            own = [row for row in rows if row["image_id"] == picture["image"]]
            found = picture[name]
            assert found["label"] == [label_of[row["category_id"]] for row in own]
            xyxy = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in own)]
            assert np.reshape(found["box"], (-1, 4)) == pytest.approx(np.reshape(xyxy, (-1, 4)), abs=0.051)
            for row, mask in zip(own, found["mask"], strict=True):
                assert (mask is None) == (not row["segmentation"])
                if mask is not None:
                    x, y, w, h, counts = mask
                    cut = coco_mask.decode({"size": [h, w], "counts": counts})
                    whole = np.zeros(SIZE, np.uint8)
                    whole[y : y + h, x : x + w] = cut
                    assert (whole == decoded(row["segmentation"])).all()
                    assert cut.any(axis=0)[[0, -1]].all() and cut.any(axis=1)[[0, -1]].all()  # as small as can be


def decoded(segmentation):
    if isinstance(segmentation, list):
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, *SIZE)))
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *SIZE)
    return coco_mask.decode(segmentation)


def test_a_detection_is_about_what_it_found_or_an_object_of_the_class_its_error_allows(of_set):
    seen = set()
    for picture in of_set["pictures"]:
        objects, found = picture["objects"], picture["detections"]
        for kind in of_set["kinds"]:
            for row, (error, about) in enumerate(zip(found["error"][kind], found["about"][kind], strict=True)):
                seen.add(error)
                assert objects["found_by"][kind][about] == row if error == "" else row not in objects["found_by"][kind]
                if error in ("bkg", "crowd"):
                    assert about == -1
                else:
                    assert about >= 0 and objects["counted"][kind][about] and not objects["crowd"][about]
                    same = objects["label"][about] == found["label"][row]
                    assert same == (error in ("", "loc", "dup"))
            for crowd, mask, counted in zip(objects["crowd"], objects["mask"], objects["counted"][kind], strict=True):
                assert counted == (not crowd and (kind == "bbox" or mask is not None))
    assert {"", "crowd", "loc", "bkg"} <= seen


def test_the_groups(of_set):
    groups = {group["name"]: group["pictures"] for group in of_set["groups"]}
    quality = [picture["quality"] for picture in of_set["pictures"]]
    assert list(groups) == ["worst", "best", "random"]
    worst, best = ([quality[i] for i in groups[name]] for name in ("worst", "best"))
    assert worst == sorted(worst) and best == sorted(best, reverse=True) and worst[-1] <= best[-1]
    assert not set(groups["worst"]) & set(groups["best"])
    assert min(q for q in quality if q is not None) == worst[0]


def test_quality_is_at_the_score_of_the_best_f1(run, of_set):
    matches = match(Results(run.dataset, run.folder / "inference"), ["segm"])["segm"]
    best = of_set["kinds"]["segm"]["best_f1"]["all"]["threshold"]
    expected, other = (dict(enumerate(panoptic_quality(matches, score).tolist())) for score in (best, 0.5))
    place = {image: i for i, image in enumerate(sorted(run.dataset.image_ids.tolist()))}
    shown = {place[picture["image"]]: picture["quality"] for picture in of_set["pictures"]}
    known = {i: value for i, value in shown.items() if value is not None}
    assert known == {i: pytest.approx(expected[i], abs=5.1e-5) for i in known}
    assert any(abs(other[i] - value) > 0.01 for i, value in known.items())


def test_many_evaluations_of_many_categories_are_thinned(tmp_path):
    run = make_evaluated_run(tmp_path, images=4)
    lines = [{"iteration": i, **{f"segm/AP-{k}": 0.5 for k in range(1000)}} for i in range(100)]
    (run.folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluations = report_data(run.folder, run.test_sets)["evaluations"]
    assert len(evaluations["iterations"]) == 50 and evaluations["series"]["segm/AP-999"] == [0.5] * 50


def test_the_page_says_what_was_evaluated(data, of_set, run):
    assert data["title"] == "run" and of_set["evaluated"] == "iteration 19"
    assert of_set["images"] == len(run.dataset) and of_set["classes"] == list(CATEGORIES.values())
    assert data["training"]["series"]["total_loss"] == [2.0]
    assert data["evaluations"]["series"]["segm/AP"] == [run.metrics["segm/AP"]]
    assert ["SOLVER.MAX_ITER", "8800", ""] in data["config"]


def test_without_masks_there_are_boxes_alone(tmp_path):
    run = make_evaluated_run(tmp_path, masks=False, images=6)
    (found,) = report_data(run.folder, run.test_sets)["sets"]
    assert list(found["kinds"]) == ["bbox"]
    assert {mask for picture in found["pictures"] for mask in picture["detections"]["mask"]} == {None}


def noisy_run(folder, *, images=8, detections=30):
    """Each detection is noise in a place of its own: a mask of more text than anything that is an object."""
    rng = np.random.default_rng(0)
    run = make_evaluated_run(folder, images=images)
    rows = [
        {
            "image_id": image,
            "category_id": 3,
            "bbox": [1.0, 2.0, 50.0, 40.0],
            "score": round(float(rng.random()), 3),
            "segmentation": compressed(rng.random(SIZE) < rng.uniform(0.02, 0.5)),
        }
        for image in run.dataset.image_ids.tolist()
        for _ in range(detections)
    ]
    return evaluated_run(folder / "noisy", run.dataset, rows)


def text_of_masks(of_set):
    sides = [picture[side] for picture in of_set["pictures"] for side in ("objects", "detections")]
    return sum(len(mask[-1]) for side in sides for mask in side["mask"] if mask), sum(
        mask is None for side in sides for mask in side["mask"]
    )


def test_intricate_masks_are_left_off_until_the_page_is_small_enough(tmp_path, monkeypatch):
    run = noisy_run(tmp_path)
    (whole,) = report_data(run.folder, run.test_sets)["sets"]
    all_text, without = text_of_masks(whole)
    assert whole["left_off"] == [] and without == 0
    rows = sum(len(picture[side]["label"]) for picture in whole["pictures"] for side in ("objects", "detections"))
    monkeypatch.setattr(build, "DRAWN", 80 * rows + all_text // 2)
    (found,) = report_data(run.folder, run.test_sets)["sets"]
    text, without = text_of_masks(found)
    assert all_text / 4 < text < all_text / 2 and 0 < without < rows / 2
    assert found["left_off"] == [
        f"{without:,} of {rows:,} masks are left off, the most intricate ones; their boxes are drawn instead."
    ]
    for picture, other in zip(found["pictures"], whole["pictures"], strict=True):
        assert picture["detections"]["box"] == other["detections"]["box"]
        assert all(picture["objects"]["mask"])  # rectangles


def test_where_there_is_much_to_draw_groups_and_examples_are_fewer(tmp_path, monkeypatch):
    run = make_evaluated_run(tmp_path, images=40)
    (whole,) = report_data(run.folder, run.test_sets)["sets"]
    monkeypatch.setattr(build, "ROWS", 1)
    (found,) = report_data(run.folder, run.test_sets)["sets"]
    assert [len(group["pictures"]) for group in whole["groups"]] == [12, 12, 12] and whole["left_off"] == []
    assert [len(group["pictures"]) for group in found["groups"]] == [3, 3, 3]
    examples = [entry["examples"] for kind in found["kinds"].values() for entry in kind["errors"]["types"]]
    assert max(map(len, examples)) == 2
    assert len(found["pictures"]) < len(whole["pictures"])
    assert found["left_off"] == [left_off(3, 0, 0)[0]]


def test_without_an_evaluation_there_are_curves_alone(tmp_path):
    run = make_evaluated_run(tmp_path, images=4)
    (run.folder / "inference" / "coco_figures.json").unlink()
    assert report_data(run.folder, run.test_sets)["sets"] == []
    assert report_data(run.folder, {})["training"]["iterations"] == [19]


def test_without_a_detection(tmp_path):
    run = make_evaluated_run(tmp_path, images=4)
    (run.folder / "inference" / "coco_instances_results.json").write_text("[]")
    (found,) = report_data(run.folder, run.test_sets)["sets"]
    assert found["kinds"]["segm"]["best_f1"]["all"] is None
    assert write_report(run.folder, run.test_sets).exists()


def test_results_of_other_data_are_refused(tmp_path):
    run = make_evaluated_run(tmp_path, images=5)
    content = json.loads(run.dataset.json_path.read_text())
    content["images"] = content["images"][:4]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] > 996]
    (tmp_path / "fewer.json").write_text(json.dumps(content))
    fewer = read_coco(tmp_path / "fewer.json", run.dataset.image_root)
    with pytest.raises(ReportError, match="results of 5 images and 5 classes, but the data set 'fewer' has 4 and 5"):
        write_report(run.folder, {"fewer": fewer})
    assert not (run.folder / "report.html").exists()


def test_results_of_other_objects_or_images_are_refused(tmp_path):
    run = make_evaluated_run(tmp_path, images=5)
    content = json.loads(run.dataset.json_path.read_text())
    content["annotations"] = content["annotations"][1:]
    (tmp_path / "other.json").write_text(json.dumps(content))
    other = read_coco(tmp_path / "other.json", run.dataset.image_root)
    with pytest.raises(ReportError, match="results of other classes or of .* objects, but the data set 'other' has"):
        write_report(run.folder, {"other": other})
    path = run.folder / "inference" / "coco_instances_results.json"
    path.write_text(path.read_text().replace('"image_id": 999', '"image_id": 7'))
    with pytest.raises(ReportError, match="has detections in image 7, which the data set 'instances' lacks"):
        write_report(run.folder, run.test_sets)


def test_a_report_that_fails_is_a_warning(tmp_path, caplog):
    run = make_evaluated_run(tmp_path, images=4)
    (tmp_path / "data" / "1.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        report_on(run.folder, run.test_sets, Evaluated.now("iteration 20", 1.0), config="SEED: 3\n")
    line = caplog.messages[-1]
    assert "no report, by an error in making it" in line and "1.png" in line
    assert Evaluated.read(run.folder / "inference").what == "iteration 20"  # and it can be made later
    assert not list(run.folder.glob("*.html")) and not list(run.folder.glob(".*"))


def test_a_run_that_is_asked_to_stop_does_not_wait_for_its_report(tmp_path, caplog):
    run = make_evaluated_run(tmp_path, images=4)
    with caplog.at_level(logging.WARNING):
        report_on(run.folder, run.test_sets, Evaluated.now("iteration 20", 1.0), config="", stop=lambda: True)
    assert caplog.messages[-1] == f"no report: the run was asked to stop; `maskrcnn report {run.folder}` makes it"


def test_the_hook_says_which_iteration_was_evaluated():
    asked = []
    Reporting(asked.append).after_evaluation(699, {"bbox/AP": 1.0})
    assert asked == ["iteration 699"]


def test_the_command(tmp_path, capsys):
    run = make_evaluated_run(tmp_path, images=4)
    assert cli.main(["report", str(run.folder)]) == 0
    said = capsys.readouterr()
    assert said.out == f"report: {run.folder / 'report.html'}\n" and said.err == ""
    assert (run.folder / "report.html").read_text().startswith("<!doctype html>")
    (run.folder / "inference" / "coco_instances_results.json").unlink()
    assert cli.main(["report", str(run.folder)]) == 2
    assert "coco_instances_results.json is missing" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "no folder of a run: it has no config.yaml" in capsys.readouterr().err


def test_the_command_says_that_there_are_no_figures(tmp_path, capsys):
    run = make_evaluated_run(tmp_path, images=4)
    (run.folder / "inference" / "coco_figures.json").unlink()
    assert cli.main(["report", str(run.folder)]) == 0
    said = capsys.readouterr()
    assert said.out == f"report: {run.folder / 'report.html'}\n"
    how = f"tools/train_net.py --eval-only --config {run.folder / 'config.yaml'} OUTPUT_DIR {run.folder}"
    assert said.err == f"maskrcnn report: no figures of instances; `{how}` makes them\n"


def test_what_evaluating_again_would_not_help_is_not_advised(tmp_path, capsys):
    run = make_evaluated_run(tmp_path, images=4)
    (run.folder / "inference" / "coco_figures.json").unlink()
    assert cli.main(["report", str(run.folder), "TEST.EVALUATORS", "[proposals]"]) == 0
    assert capsys.readouterr().err == (
        "maskrcnn report: no figures of instances: the page shows those of 'coco' and 'coco_keypoints'; "
        "TEST.EVALUATORS is ['proposals']\n"
    )
    content = json.loads(run.dataset.json_path.read_text())
    images = tmp_path / "image_info_mine.json"
    images.write_text(json.dumps({key: content[key] for key in ("images", "categories")}))
    data = [{"JSON": str(images), "IMAGES": str(run.dataset.image_root)}]
    assert cli.main(["report", str(run.folder), "DATASETS.TEST", json.dumps(data)]) == 0
    assert capsys.readouterr().err == (
        "maskrcnn report: no figures of image_info_mine: these images have no annotations\n"
    )


def test_a_full_disk_is_one_line(tmp_path, capsys, monkeypatch):
    run = make_evaluated_run(tmp_path, images=4)

    def full(path, *_, **__):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    assert cli.main(["report", str(run.folder)]) == 2
    said = capsys.readouterr().err
    assert f"{run.folder / 'report.html'} cannot be written: " in said and "No space left" in said
    assert said.count("\n") == 1 and not (run.folder / "report.html").exists()


def test_figures_of_keypoints_leave_the_page_to_boxes_and_masks(tmp_path):
    run = make_evaluated_run(tmp_path, images=4)
    path = run.folder / "inference" / "coco_figures.json"
    figures = json.loads(path.read_text())
    figures["kinds"]["keypoints"] = {"figures": {"AP": 1.0}, "by_class": {"columns": [], "rows": []}, "precision": {}}
    path.write_text(json.dumps(figures))
    (found,) = report_data(run.folder, run.test_sets)["sets"]
    assert found["kinds"].keys() == {"segm", "bbox"}
