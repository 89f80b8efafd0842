import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_run import CLASSES, make_run

from maskrcnn.cli import main
from maskrcnn.cli import predict as cli_predict
from maskrcnn.cli.predict_inputs import plan
from maskrcnn.data import read_coco
from maskrcnn.data.videos import Video
from maskrcnn.evaluation import CocoEvaluator
from maskrcnn.evaluation.coco_figures import figure_names
from maskrcnn.structures import Detections, Sample
from maskrcnn.visualization import VideoFile


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("predict"))


class Found:
    """In place of a Predictor: finds the same two objects everywhere."""

    class_names, category_ids = ("disc", "bar", "ring"), (4, 9, 30)

    def __init__(self, source: Path, **options: object) -> None: ...

    def stream(self, images: Iterable[np.ndarray]) -> Iterator[Detections]:
        return map(self.find, images)

    def find(self, image: np.ndarray) -> Detections:
        boxes = torch.tensor([[10.0, 12, 30, 32], [40, 5, 60, 40]])
        scores, labels = torch.tensor([0.9, 0.6]), torch.tensor([1, 2])
        return Detections(boxes, scores, labels, image.shape[:2], masks=torch.ones(2, 28, 28))


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_files_and_folders_are_drawn_and_listed(run: Path, tmp_path: Path, capsys) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    (inputs / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png", "sub/b.jpg", "c.gif"):
        shutil.copy(run.parent / "data" / "0.png", inputs / name)
    (inputs / "notes.txt").write_text("no image")
    single = run.parent / "data" / "1.png"
    arguments = [
        inputs,
        single,
        "--run",
        run,
        "--output",
        output,
        "--score-threshold",
        "0",
        "--json",
        tmp_path / "r.json",
    ]
    assert predict(*arguments) == 0
    assert files(output) == ["1.png", "a.png", "c.gif.png", "sub/a.png", "sub/b.jpg"]
    assert cv2.imread(str(output / "1.png")).shape == cv2.imread(str(single)).shape
    assert not np.array_equal(cv2.imread(str(output / "1.png")), cv2.imread(str(single)))  # something is drawn

    coco = COCO(str(tmp_path / "r.json"))  # the official tool reads it as a data set
    assert len(coco.imgs) == 5 and {c["id"]: c["name"] for c in coco.cats.values()} == CLASSES
    assert {a["image_id"] for a in coco.anns.values()} == set(coco.imgs)
    for annotation in coco.anns.values():
        size = [coco.imgs[annotation["image_id"]][side] for side in ("height", "width")]
        assert annotation["segmentation"]["size"] == size
        assert annotation["area"] == coco.annToMask(annotation).sum() and 0 <= annotation["score"] <= 1
    assert f"{len(coco.anns)} objects in 5 images" in capsys.readouterr().out


def test_the_threshold_holds_for_pictures_and_list(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    source, listed = run.parent / "data" / "0.png", tmp_path / "r.json"
    for threshold, ids in ((0, [9, 30]), (0.7, [9]), (1, [])):
        options = ["--run", run, "--output", tmp_path, "--score-threshold", threshold, "--json", listed]
        assert predict(source, *options) == 0
        assert [a["category_id"] for a in json.loads(listed.read_text())["annotations"]] == ids
        changed = (cv2.imread(str(tmp_path / "0.png")) != cv2.imread(str(source))).any(axis=2)
        assert changed[20:30, 15:25].any() == (9 in ids) and changed[20:30, 45:55].any() == (30 in ids)


def test_a_bad_file_is_reported_and_the_rest_is_done(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    inputs = tmp_path / "in"
    inputs.mkdir()
    good = (run.parent / "data" / "0.png").read_bytes()
    (inputs / "1_empty.jpg").touch()
    (inputs / "2_truncated.png").write_bytes(good[: len(good) // 2])
    (inputs / "3_good.png").write_bytes(good)
    arguments = ["--run", run, "--output", tmp_path / "out", "--json", tmp_path / "r.json"]
    assert predict(inputs, tmp_path / "missing.jpg", *arguments) == 1
    assert files(tmp_path / "out") == ["3_good.png"]
    captured = capsys.readouterr()
    assert "3 failed" in captured.out and "Traceback" not in captured.err
    for name in ("1_empty.jpg", "2_truncated.png", "missing.jpg"):
        assert name in captured.err
    assert [image["file_name"] for image in json.loads((tmp_path / "r.json").read_text())["images"]] == [
        (inputs / "3_good.png").as_posix()
    ]


def test_pictures_of_equal_names_do_not_replace_each_other(tmp_path: Path) -> None:
    for folder in ("left", "right", "more/left"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").touch()
    output = tmp_path / "out"
    left, right, more = (tmp_path / folder / "a.jpg" for folder in ("left", "right", "more/left"))
    jobs = plan([left, right, more, left, tmp_path / "left"], output)
    assert [target.relative_to(output).as_posix() for _, target in jobs] == ["a.jpg", "right_a.jpg", "left_a.jpg"]
    jobs = plan([tmp_path / "left", tmp_path / "more"], output)  # folders below the one that was named are kept
    assert [target.relative_to(output).as_posix() for _, target in jobs] == ["a.jpg", "left/a.jpg"]
    for name in ("a.jpg", "a.JPG", "a.gif", "a.png"):
        (tmp_path / "left" / name).touch()
    targets = [target.name for _, target in plan([tmp_path / "left"], output)]
    assert sorted(targets) == ["a.JPG", "a.gif.png", "a.jpg", "a.png"]


def test_many_of_one_name_get_numbers(tmp_path: Path) -> None:
    sources = []
    for i in range(4):
        (tmp_path / str(i) / "x").mkdir(parents=True)
        sources.append(tmp_path / str(i) / "x" / "a.jpg")
        sources[-1].touch()
    targets = [target.name for _, target in plan(sources, tmp_path / "out")]
    assert targets == ["a.jpg", "x_a.jpg", "x_2_a.jpg", "x_3_a.jpg"]


def test_the_output_may_lie_inside_the_input(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "out" / "a.jpg").touch()  # of an earlier run
    assert plan([tmp_path], tmp_path / "out") == [(tmp_path / "a.jpg", tmp_path / "out" / "a.jpg")]


def test_no_image_is_ever_overwritten(run: Path, tmp_path: Path, capsys) -> None:
    shutil.copy(run.parent / "data" / "0.png", tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert predict(tmp_path / "a.png", "--run", run, "--output", tmp_path) == 2
    assert f"would overwrite {tmp_path / 'a.png'}" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "a.yaml", "--output", "out"], "--config needs --weights"),
        (["--output", "out"], "one of the arguments --run --config"),
        (["--run", "run"], "--output is missing"),
        (["--run", "run", "--no-pictures"], "nothing to write"),
        (["--run", "run", "--output", "out", "--batch-size", "0"], "at least 1"),
        (["--run", "run", "--output", "out", "--tile", "0"], "at least 1"),
        (["--run", "run", "--output", "out", "--overlap", "9"], "it needs --tile"),
        (["--run", "run", "--output", "out", "--tile", "9", "--overlap", "9"], "it needs --tile"),
        (["--run", "run", "--output", "out", "--json", "a", "--format", "coco-results"], "needs --image-ids"),
        (["--run", "run", "--output", "out", "--score-threshold", "2"], "it goes from 0 to 1"),
        (["--run", "run", "--output", "out", "--opacity", "2"], "it goes from 0 to 1"),
        (["--run", "run", "--output", "out", "--line-width", "0"], "at least 1"),
        (["--run", "run", "--output", "file.txt"], "is a file"),
        (["--run", "run", "--output", "out", "--json", "out"], "is a folder"),
        (["--run", "run", "--output", "out"], "no images in empty"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(SystemExit, match="2"):
        predict("empty", *arguments)
    assert message in capsys.readouterr().err


def test_wrong_weights_are_one_line(run: Path, tmp_path: Path, capsys) -> None:
    source = run.parent / "data" / "0.png"
    assert predict(source, "--run", tmp_path / "none", "--output", tmp_path / "out") == 2
    assert predict(source, "--config", run / "config.yaml", "--weights", "none.pth", "--output", tmp_path / "out") == 2
    captured = capsys.readouterr().err
    assert "Traceback" not in captured and "none.pth" in captured


def test_styles_reach_the_pictures(run: Path, tmp_path: Path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    monkeypatch.setattr(
        cli_predict, "draw_detections", lambda image, found, class_names, **style: drawn.append(style) or image
    )
    options = ["--color-by", "instance", "--opacity", "0.2", "--line-width", "3", "--no-labels", "--mask-only"]
    assert predict(run.parent / "data" / "0.png", "--run", run, "--output", tmp_path, *options) == 0
    assert drawn == [{"color_by": "instance", "opacity": 0.2, "line_width": 3, "show_labels": False, "mask_only": True}]


def test_patterns(tmp_path: Path) -> None:
    for name in ("x/a.jpg", "x/y/b.jpg", "x/y/c.png", "x/notes.txt", "[1].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    output = tmp_path / "out"

    def names(pattern: str) -> list[str]:
        return [target.relative_to(output).as_posix() for _, target in plan([tmp_path / pattern], output)]

    assert names("x/*") == ["a.jpg"] and names("*/*.jpg") == ["x/a.jpg"]
    assert names("x/**/*.jpg") == ["a.jpg", "y/b.jpg"] and names("x/y/[bc].*") == ["b.jpg", "c.png"]
    assert names("[1].jpg") == ["[1].jpg"]  # a file of this very name
    with pytest.raises(ValueError, match=r"no image or video matches .*\*\.gif"):
        names("x/*.gif")


def make_video(path: Path, count: int) -> None:
    with VideoFile(path, 12.5) as video:
        for i in range(count):
            video.add(np.full((48, 72, 3), 20 * i, np.uint8))


def test_a_video_is_drawn_and_its_frames_are_numbered(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    inputs, output, listed = tmp_path / "in", tmp_path / "out", tmp_path / "r.json"
    make_video(inputs / "a.mp4", 5)
    (inputs / "b.mov").write_text("no video")
    shutil.copy(run.parent / "data" / "0.png", inputs / "c.png")
    make_video(inputs / "d.mp4", 2)
    assert predict(inputs, "--run", run, "--output", output, "--json", listed) == 1
    captured = capsys.readouterr()
    assert "b.mov: not a video file" in captured.err and "16 objects in 8 images" in captured.out
    assert files(output) == ["a.mp4", "c.png", "d.mp4"]
    drawn = list(Video(output / "a.mp4"))
    assert len(drawn) == 5 and Video(output / "a.mp4").fps == 12.5
    assert np.abs(drawn[0][15:30, 15:25].astype(int)).mean() > 20  # the object on the black first frame
    content = json.loads(listed.read_text())
    keys = ("file_name", "video_id", "frame_id")
    names = [tuple(image.get(key) for key in keys) for image in content["images"]]
    a, c, d = ((inputs / name).as_posix() for name in ("a.mp4", "c.png", "d.mp4"))
    assert names == [*((a, 1, i) for i in range(5)), (c, None, None), (d, 2, 0), (d, 2, 1)]
    assert content["videos"] == [{"id": 1, "name": a}, {"id": 2, "name": d}]
    assert [x["image_id"] for x in content["annotations"]] == [i for i in range(1, 9) for _ in range(2)]


def test_a_video_that_cannot_be_written_is_reported_once(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    make_video(tmp_path / "a.mp4", 4)

    def refuse(video: VideoFile, image: np.ndarray) -> None:
        raise ValueError("OpenCV cannot write")

    monkeypatch.setattr(VideoFile, "add", refuse)
    assert predict(tmp_path / "a.mp4", "--run", run, "--output", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert captured.err.count("OpenCV cannot write") == 1 and "0 objects in 0 images" in captured.out


def test_json_alone(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    monkeypatch.chdir(tmp_path)
    source = run.parent / "data" / "0.png"
    assert predict(source, "--run", run, "--no-pictures", "--json", "new/r.json") == 0
    assert files(tmp_path) == ["new/r.json"]
    assert len(json.loads(Path("new/r.json").read_text())["annotations"]) == 2


def test_polygons_are_the_same_pixels(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    both = []
    for form in ("coco", "polygons"):
        options = ["--run", run, "--no-pictures", "--json", tmp_path / form, "--format", form]
        assert predict(run.parent / "data", *options) == 0
        both.append(COCO(str(tmp_path / form)))
    assert isinstance(both[1].anns[1]["segmentation"], list) and len(both[0].anns) == 6
    for i, annotation in both[0].anns.items():
        np.testing.assert_array_equal(both[0].annToMask(annotation), both[1].annToMask(both[1].anns[i]))
        assert annotation["area"] == both[1].anns[i]["area"]


def test_an_interrupted_run_leaves_no_half_file(run: Path, tmp_path: Path, monkeypatch) -> None:
    class Interrupted(Found):
        def stream(self, images: Iterable[np.ndarray]) -> Iterator[Detections]:
            yield self.find(next(iter(images)))
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_predict, "Predictor", Interrupted)
    make_video(tmp_path / "a.mp4", 3)
    options = ["--run", run, "--output", tmp_path / "out", "--json", tmp_path / "r.json"]
    assert predict(tmp_path / "a.mp4", *options) == 130
    assert files(tmp_path) == ["a.mp4"]


def test_results_are_scored_by_pycocotools_as_by_our_evaluator(tmp_path: Path, run: Path, monkeypatch) -> None:
    """From the annotation file's image ids to all 24 figures, for detections that are near the truth or wrong."""
    rng = np.random.default_rng(0)
    data = tmp_path / "data" / "val"
    data.mkdir(parents=True)
    images, annotations, detections = [], [], {}
    for i in range(6):
        size = (90 + 10 * i, 140)  # by which the predictor knows the image again
        cv2.imwrite(str(data / f"{i}.png"), np.full((*size, 3), 40 * i, np.uint8))
        images.append({"id": 1000 - i, "file_name": f"val/{i}.png", "height": size[0], "width": size[1]})
        rows = []
        for _ in range(5):
            x, y, w, h = (int(v) for v in rng.integers((0, 0, 6, 6), (70, 40, 60, 45)))
            label = int(rng.integers(3))
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            common = {"image_id": 1000 - i, "category_id": list(CLASSES)[label], "bbox": [x, y, w, h], "area": w * h}
            annotations.append({"id": len(annotations) + 1, "iscrowd": 0, "segmentation": polygon, **common})
            for jitter in rng.choice([0.5, 2, 8], size=rng.integers(0, 3)):
                box = np.array([x, y, x + w, y + h]) + rng.normal(0, jitter, 4)
                rows.append([*box, label, rng.uniform(0.05, 1)])
        table = torch.tensor(np.array(rows, np.float32).reshape(-1, 6))
        detections[size] = Detections(
            table[:, :4], table[:, 5], table[:, 4].long(), size, masks=torch.ones(len(rows), 28, 28)
        )
    categories = [{"id": i, "name": name} for i, name in CLASSES.items()]
    truth = tmp_path / "data" / "truth.json"
    truth.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))

    class Prepared(Found):
        def find(self, image: np.ndarray) -> Detections:
            return detections[image.shape[:2]]

    monkeypatch.setattr(cli_predict, "Predictor", Prepared)
    listed = tmp_path / "results.json"
    options = ["--format", "coco-results", "--image-ids", truth, "--score-threshold", 0, "--no-pictures"]
    assert predict(data, "--run", run, "--json", listed, *options) == 0

    official = COCO(str(truth))
    dataset = read_coco(truth, tmp_path / "data")
    evaluator = CocoEvaluator(dataset, None, 100)
    for record in dataset:
        sample = Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), record.image_id, record.size)
        evaluator.process([sample], [detections[record.size]])
    ours = evaluator.result()
    results = json.loads(listed.read_text())
    for kind, unread in (("bbox", "segmentation"), ("segm", "bbox")):  # with boxes, masks would be sorted by their area
        rows = [{key: value for key, value in result.items() if key != unread} for result in results]
        scored = COCOeval(official, official.loadRes(rows), kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        expected = [100 * value if value >= 0 else value for value in scored.stats]
        assert [ours[f"{kind}/{name}"] for name in figure_names((1, 10, 100))] == pytest.approx(expected, abs=1e-6)
        assert 5 < ours[f"{kind}/AP"] < 95


def test_image_ids_that_do_not_fit(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    data = run.parent / "data"
    known = json.loads((data / "instances.json").read_text())
    known["images"] = [{**known["images"][0], "file_name": "0.png"}, {**known["images"][1], "height": 9}]
    (tmp_path / "known.json").write_text(json.dumps(known))
    options = ["--run", run, "--no-pictures", "--json", tmp_path / "r.json", "--image-ids"]
    assert predict(data, *options, tmp_path / "known.json") == 1
    captured = capsys.readouterr().err
    assert "2.png: the file of --image-ids has no image of this name" in captured
    assert "1.png: the image is 56 high" in captured
    assert {a["image_id"] for a in json.loads((tmp_path / "r.json").read_text())["annotations"]} == {100}
    (tmp_path / "list.json").write_text("[1, 2]")
    assert predict(data, *options, tmp_path / "list.json") == 2
    assert "list.json: no COCO file with 'images'" in capsys.readouterr().err
    make_video(tmp_path / "a.mp4", 1)
    with pytest.raises(SystemExit, match="2"):
        predict(tmp_path / "a.mp4", *options, tmp_path / "known.json")
    assert "a.mp4 is a video" in capsys.readouterr().err


def test_tiles_and_batches(run: Path, tmp_path: Path) -> None:
    source = run.parent / "data"
    counts = []
    for more in ([], ["--batch-size", 2], ["--tile", 40, "--overlap", 10]):
        options = ["--run", run, "--no-pictures", "--score-threshold", 0, "--json", tmp_path / "r.json", *more]
        assert predict(source, *options) == 0
        counts.append(len(json.loads((tmp_path / "r.json").read_text())["annotations"]))
    assert counts[0] == counts[1] < counts[2]
