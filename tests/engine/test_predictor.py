import importlib
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import CLASSES, make_run, tiny_config

from maskrcnn import Predictor
from maskrcnn.checkpoint import CheckpointError, save_checkpoint
from maskrcnn.config import ConfigError, dump, load_config
from maskrcnn.data import DatasetError
from maskrcnn.modeling import build_model
from maskrcnn.ops.paste import paste_masks
from maskrcnn.registry import DATASETS
from maskrcnn.structures import Sample
from maskrcnn.visualization import VideoFile


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("predictor"))


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor(run, device="cpu")


def image(height: int = 50, width: int = 90) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8)


def assert_same(a, b) -> None:
    for name in ("boxes", "scores", "labels", "masks"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))


def test_it_knows_the_classes_and_ids_of_its_training_data(predictor: Predictor) -> None:
    assert predictor.class_names == tuple(CLASSES.values()) and predictor.category_ids == tuple(CLASSES)
    assert not predictor.model.training


def test_detections_are_in_the_image_s_own_pixels(predictor: Predictor) -> None:
    found = predictor(image(50, 90))
    assert found.size == (50, 90) and 0 < len(found) <= 10
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([90.0, 50, 90, 50])).all()
    assert found.boxes[:, 2].max() > 64  # not the network's pixels: 64 x 115 was shrunk to 53 x 96
    assert (found.scores.diff() <= 0).all() and not found.boxes.is_inference()
    assert paste_masks(found.masks, found.boxes, found.size).shape == (len(found), 50, 90)


def test_the_answer_is_the_model_s_for_the_resized_image(predictor: Predictor) -> None:
    pixels = image(128, 192)  # a half of it is 64 x 96, the test size, and cv2's area average is that of 2 x 2 pixels
    halves = pixels.reshape(64, 2, 96, 2, 3).astype(float).mean(axis=(1, 3))
    halves = torch.from_numpy(np.floor(halves + 0.5)).to(torch.uint8).permute(2, 0, 1)
    with torch.inference_mode():
        (expected,) = predictor.model.inference([Sample(halves, 0, (128, 192))])
    assert_same(predictor(pixels), expected)


def test_a_path_and_an_array_give_the_same(predictor: Predictor, tmp_path: Path) -> None:
    pixels = image()
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), pixels[:, :, ::-1])
    expected = predictor(pixels)
    assert_same(predictor(path), expected)
    assert_same(predictor(str(path)), expected)
    assert_same(predictor(cv2.imread(str(path))[:, :, ::-1]), expected)  # the line of cv2's users
    pixels.flags.writeable = False
    assert_same(predictor(pixels), expected)


def test_the_order_of_the_channels_matters(predictor: Predictor) -> None:
    a, b = predictor(image()), predictor(image()[:, :, ::-1])
    assert a.scores.shape != b.scores.shape or not torch.allclose(a.scores, b.scores)


def test_channels_in_opencv_s_order_are_taken_by_name(run: Path, predictor: Predictor, tmp_path: Path) -> None:
    pixels = image()
    opencv = Predictor(run, device="cpu", channels="BGR")
    expected = predictor(pixels)
    assert_same(opencv(pixels[:, :, ::-1]), expected)
    assert_same(opencv(torch.from_numpy(pixels).permute(2, 0, 1).flip(0)), expected)
    cv2.imwrite(str(tmp_path / "image.png"), pixels[:, :, ::-1])
    assert_same(opencv(tmp_path / "image.png"), expected)  # files know their own order
    assert_same(opencv(Image.fromarray(pixels)), expected)
    assert_same(opencv.tiled(pixels[:, :, ::-1], tile=60), predictor.tiled(pixels, tile=60))
    with pytest.raises(ValueError, match="channels is 'rgb'; choose from RGB, BGR"):
        Predictor(run, channels="rgb")


def test_every_form_of_an_image_gives_the_same(predictor: Predictor, tmp_path: Path) -> None:
    pixels = image()
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), pixels[:, :, ::-1])
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    alpha = np.dstack([pixels, pixels[:, :, :1]])
    on_its_side = Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))
    on_its_side.getexif()[0x0112] = 6  # the viewer turns it clockwise
    forms = [pixels, path, str(path), path.read_bytes(), tensor, Image.fromarray(pixels), Image.fromarray(alpha)]
    forms += [Image.open(path), on_its_side]
    for found in predictor(forms):
        assert_same(found, predictor(pixels))
        assert found.size == (50, 90)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_many_images_are_as_good_as_one_by_one(run: Path, predictor: Predictor, batch_size: int) -> None:
    """In their order, whichever of them went through the model together."""
    rng = np.random.default_rng(0)
    sizes = [(50, 90), (90, 50), (100, 180), (50, 90), (64, 64), (50, 90), (90, 50), (50, 90)] * 2
    images = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    many = Predictor(run, device="cpu", batch_size=batch_size)
    batches = []
    infer = many.model.inference
    many.model.inference = lambda batch: batches.append([s.size for s in batch]) or infer(batch)
    found = many(images)
    assert sum(map(len, batches)) == 16 and all(len(set(batch)) == 1 for batch in batches)  # no batch is padded
    assert max(map(len, batches)) == batch_size
    assert [f.size for f in found] == sizes
    for one, pixels in zip(found, images, strict=True):
        expected = predictor(pixels)
        for name in ("boxes", "scores", "labels", "masks"):
            torch.testing.assert_close(getattr(one, name), getattr(expected, name), atol=1e-4, rtol=1e-4)
    assert many([]) == []
    with pytest.raises(ValueError, match="batch_size is 0"):
        Predictor(run, batch_size=0)


def test_a_stream_reads_no_further_than_it_must(run: Path) -> None:
    read = []

    def images():
        for i in range(100):
            read.append(i)
            yield image(40 + i % 2, 60)

    for batch_size, ahead in ((1, 1), (2, 8)):
        read.clear()
        stream = Predictor(run, device="cpu", batch_size=batch_size).stream(images())
        assert not read
        assert next(stream).size == (40, 60) and len(read) == ahead
        assert next(stream).size == (41, 60) and len(read) == max(ahead, 2)


def test_tiles(predictor: Predictor) -> None:
    pixels = image(130, 200)
    found = predictor.tiled(pixels, tile=100)
    assert found.size == (130, 200) and len(found) > 10  # more than one image may have
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([200.0, 130, 200, 130])).all()
    assert (found.scores.diff() <= 0).all() and found.masks.shape == (len(found), 28, 28)
    assert_same(predictor.tiled(pixels, tile=200), predictor(pixels))
    with pytest.raises(ValueError, match="an overlap of 100"):
        predictor.tiled(pixels, tile=100, overlap=100)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((40, 50), np.uint8), r"\(height, width, 3\) in RGB order, not \(40, 50\)"),
        (np.zeros((3, 40, 50), np.uint8), r"not \(3, 40, 50\)"),
        (np.zeros((40, 50, 4), np.uint8), r"not \(40, 50, 4\)"),
        (np.zeros((2, 40, 50, 3), np.uint8), r"not \(2, 40, 50, 3\)"),
        (np.zeros((0, 50, 3), np.uint8), r"not \(0, 50, 3\)"),
        (np.zeros((40, 50, 3), np.float32), "uint8, 0 to 255, not float32"),
        (torch.zeros(3, 40, 50), r"a tensor is uint8, .* not float32 of shape \(3, 40, 50\)"),
        (torch.zeros(40, 50, 3, dtype=torch.uint8), r"not uint8 of shape \(40, 50, 3\)"),
        (Image.fromarray(np.zeros((4, 5), np.float32)), "Pillow image cannot be decoded: .* 8 bits"),
        (b"no image", "8 bytes: not an image file"),
        (b"", "0 bytes: the image file is empty"),
        (None, "not a NoneType"),
    ],
)
def test_what_is_no_image_is_an_error(predictor: Predictor, wrong, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor(wrong)
    with pytest.raises(ValueError, match=f"^image 1: .*{message}"):
        predictor([image(), wrong])


def test_a_missing_or_broken_file_is_an_error_that_names_it(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.jpg"):
        predictor(tmp_path / "none.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"broken\.jpg"):
        predictor(tmp_path / "broken.jpg")


def test_a_tiny_image(predictor: Predictor) -> None:
    assert predictor(image(1, 1)).size == (1, 1)
    assert predictor(image(2, 300)).size == (2, 300)


def test_a_config_and_weights_are_as_good_as_a_folder(run: Path, predictor: Predictor, tmp_path: Path) -> None:
    expected = predictor(image())
    assert_same(Predictor(run / "config.yaml", weights=run / "model_final.pth")(image()), expected)
    config = tmp_path / "no_classes.yaml"  # as before training: their number comes with the weights
    config.write_text(dump(tiny_config(run.parent)))
    found = Predictor(config, overrides=["MODEL.WEIGHTS", str(run / "model_final.pth")])
    assert found.cfg.MODEL.NUM_CLASSES == 3
    assert_same(found(image()), expected)


def test_the_newest_checkpoint_is_taken(run: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    content = torch.load(folder / "model_final.pth", weights_only=True)
    content["model"] = {name: torch.zeros_like(tensor) for name, tensor in content["model"].items()}
    save_checkpoint(folder / "model_0000009.pth", content)
    assert any(p.any() for p in Predictor(folder).model.parameters())
    (folder / "last_checkpoint").write_text("model_0000009.pth")
    assert not any(p.any() for p in Predictor(folder).model.parameters())
    (folder / "last_checkpoint").unlink()
    assert any(p.any() for p in Predictor(folder).model.parameters())


def test_overrides_reach_the_model(run: Path) -> None:
    assert len(Predictor(run, overrides=["TEST.DETECTIONS_PER_IMAGE", "2"])(image())) == 2
    assert len(Predictor(run, overrides=["MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.99"])(image())) == 0


def test_what_is_missing_or_does_not_fit_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the folder of a training run: it has no config.yaml"):
        Predictor(tmp_path)
    with pytest.raises(ConfigError):
        Predictor(tmp_path / "none.yaml", weights=run / "model_final.pth")
    with pytest.raises(CheckpointError, match="names no weights of a trained model"):
        Predictor(run / "config.yaml")
    with pytest.raises(CheckpointError, match=r"no weights file .*model_last\.pth"):
        Predictor(run, weights=run / "model_last.pth")
    with pytest.raises(CheckpointError, match="the weights know 3 classes, but MODEL.NUM_CLASSES is 5"):
        Predictor(run, overrides=["MODEL.NUM_CLASSES", "5"])
    with pytest.raises(CheckpointError, match="weights of another architecture"):
        Predictor(run, overrides=["MODEL.BACKBONE.DEPTH", "34"])
    with pytest.raises(ValueError, match="no device"):
        Predictor(run, device="gpu")


def test_weights_without_class_names_get_numbers(run: Path, tmp_path: Path) -> None:
    state = build_model(Predictor(run).cfg).state_dict()
    torch.save(dict(state), tmp_path / "plain.pth")
    assert Predictor(run, weights=tmp_path / "plain.pth").class_names == ("class 0", "class 1", "class 2")
    with pytest.raises(CheckpointError, match="give their number as MODEL.NUM_CLASSES"):
        Predictor(run, weights=tmp_path / "plain.pth", overrides=["MODEL.NUM_CLASSES", "0"])


def test_the_examples_of_the_docs_run(tmp_path: Path, monkeypatch, capsys) -> None:
    text = (Path(__file__).parents[2] / "docs" / "prediction.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "output").mkdir()
    make_run(tmp_path).rename(tmp_path / "output" / "demo")
    cv2.imwrite(str(tmp_path / "photo.jpg"), image(60, 80))
    with VideoFile(tmp_path / "clip.mp4", 25) as video:
        video.add(image(60, 80))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/prediction.md", "exec"), names)
    assert len(blocks) >= 6
    assert (tmp_path / "found.jpg").is_file()
    assert "category  objects  box AP  mask AP" in capsys.readouterr().out


def test_the_commands_of_the_docs_are_understood() -> None:
    text = (Path(__file__).parents[2] / "docs" / "prediction.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^maskrcnn (\w+) (.*)$", text, flags=re.MULTILINE)
    assert {command for command, _ in commands} == {"predict", "show_predictions", "show_data", "train"}
    for command, arguments in commands:
        args = importlib.import_module(f"maskrcnn.cli.{command}").parser().parse_args(shlex.split(arguments))
        if command == "train":
            names = load_config(args.config, args.overrides).DATASETS.TEST
            assert names and set(names) <= set(DATASETS.names())


def test_predictions_in_bf16_are_near_those_in_fp32(run: Path, predictor: Predictor) -> None:
    assert predictor.precision.dtype == torch.float32
    rounded = Predictor(run, device="cpu", overrides=["TEST.AMP=bf16"])
    found, expected = rounded(image()), predictor(image())
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    scores = [d.scores.sort(descending=True).values[:5] for d in (found, expected)]
    assert not torch.equal(*scores)
    torch.testing.assert_close(*scores, rtol=0.05, atol=0.01)


def test_fp16_on_a_cpu_is_refused_by_its_own_key(run: Path) -> None:
    with pytest.raises(ValueError, match=r"TEST\.AMP is fp16 and the device the CPU"):
        Predictor(run, device="cpu", overrides=["TEST.AMP=fp16"])


def test_parts_are_compiled_on_request(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part, **options: compiled.append(part))
    assert len(Predictor(run, device="cpu", overrides=["COMPILE=true"]).model.compilable()) == len(compiled) == 5
