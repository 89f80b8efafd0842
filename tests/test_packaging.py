"""The wheel: built without torch, and complete."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = [name for extra, names in PROJECT["optional-dependencies"].items() if extra != "dev" for name in names]
REQUIREMENTS = [*PROJECT["dependencies"], *OPTIONAL]

# As in an isolated build: whatever imports torch fails.
BUILD = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "maskrcnn"):
            raise ImportError(f"the build imports {name}")

sys.meta_path.insert(0, NoTorch())
from setuptools import build_meta
folder = sys.argv[1]  # setuptools puts arguments of its own there
build_meta.prepare_metadata_for_build_wheel(folder)
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, the source distribution and the metadata of a copy of the checkout."""
    pytest.importorskip("setuptools")
    checkout, built = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("built")
    for folder in ("maskrcnn", "csrc", "configs"):
        shutil.copytree(REPOSITORY / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, checkout / file)
    done = subprocess.run([sys.executable, "-c", BUILD, built], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built


def files_below(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc" and path.name[0] != ".")
    return {path.relative_to(folder).as_posix() for path in files}


def test_the_wheel_holds_the_package_the_sources_and_the_configs(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    for folder, inside in (("maskrcnn", "maskrcnn"), ("csrc", "maskrcnn/csrc"), ("configs", "maskrcnn/configs")):
        expected = {f"{inside}/{name}" for name in files_below(REPOSITORY / folder)}
        assert expected and expected <= names, sorted(expected - names)
    assert not [name for name in names if name.split("/")[0] not in ("maskrcnn", "maskrcnn-0.1.0.dist-info")]


def test_the_source_distribution_holds_them_too(built: Path) -> None:
    shutil.unpack_archive(next(built.glob("*.tar.gz")), built / "unpacked", filter="data")
    unpacked = next((built / "unpacked").iterdir())
    for folder in ("maskrcnn", "csrc", "configs"):
        assert files_below(REPOSITORY / folder) <= files_below(unpacked / folder)


def test_the_metadata_is_static(built: Path) -> None:
    text = next(built.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    for line in ("Name: maskrcnn", "Version: 0.1.0", "Requires-Python: >=3.11", "License-Expression: Apache-2.0"):
        assert line in text.splitlines()
    assert "Requires-Dist: torch>=2.10" in text
    scripts = next(built.glob("*.dist-info/entry_points.txt")).read_text(encoding="utf-8")
    assert "maskrcnn = maskrcnn.cli:main" in scripts


def test_an_installed_wheel_finds_its_configs(built: Path, tmp_path: Path) -> None:
    """In a folder of its own, away from the checkout; the dependencies are those of this Python."""
    wheel = next(built.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path, wheel]
    subprocess.run(pip, check=True, cwd=tmp_path)
    code = (
        "import maskrcnn; from maskrcnn.config import config_path;"
        "print(maskrcnn.__file__, config_path('mask_rcnn/mask_rcnn_r50_fpn_1x_coco'));"
        "print(maskrcnn.load_config('mask_rcnn/mask_rcnn_r50_fpn_1x_coco').SOLVER.MAX_ITER)"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    package, config, iterations = done.stdout.split()
    assert Path(package).is_relative_to(tmp_path) and Path(config).is_relative_to(tmp_path) and iterations == "90000"


def test_every_third_party_import_is_declared() -> None:
    """A module that only comes with another package goes away with it."""
    distribution = {
        "cv2": "opencv-python-headless",
        "PIL": "pillow",
        "yaml": "PyYAML",
        "faster_coco_eval": "faster-coco-eval",
        "mlflow": "mlflow-skinny",
    }
    declared = {requirement.split(">=")[0].split("!=")[0] for requirement in REQUIREMENTS}
    for path in (REPOSITORY / "maskrcnn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - {"maskrcnn"} - sys.stdlib_module_names:
                assert distribution.get(top, top).replace("_", "-") in declared, (
                    f"{path.name} imports {top}, which pyproject.toml lacks"
                )


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_no_dependency_forces_its_licence_on_users(requirement: str) -> None:
    name = requirement.split(">=")[0].split("!=")[0]
    try:
        about = metadata(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    fields = [about.get("License-Expression", ""), *(about.get_all("Classifier") or [])]
    licences = [field for field in fields if field and ("License" in field or field == fields[0])]
    assert not [field for field in licences if "GPL" in field and "LGPL" not in field], licences


TINY = [
    *("INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "1"),
    *("DATASETS.TRAIN", "{JSON: shapes/annotations/instances_train.json, IMAGES: shapes/train}"),
    *("DATASETS.TEST", "{JSON: shapes/annotations/instances_val.json, IMAGES: shapes/val}"),
]


@pytest.mark.slow  # downloads and installs torch
@pytest.mark.parametrize("torch", [["torch==2.10.*", "torchvision==0.25.*"], ["torch", "torchvision"]], ids=str)
def test_a_stranger_installs_the_wheel_and_works_in_an_empty_folder(
    built: Path, tmp_path: Path, torch: list[str]
) -> None:
    """An environment of its own whose site-packages nobody may write to: operators, training, pictures."""
    home, place = tmp_path / "environment", tmp_path / "work"
    place.mkdir()
    venv.create(home, with_pip=True)
    scripts = home / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [scripts / "python", "-m", "pip", "install", "--quiet", *torch, next(built.glob("*.whl"))]
    subprocess.run(pip, check=True, cwd=place)
    package = next(home.rglob("site-packages")) / "maskrcnn"
    for path in [*package.rglob("*"), package]:
        path.chmod(path.stat().st_mode & ~0o222)
    before = sorted(package.rglob("*"))
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MASKRCNN", "VIRTUAL_ENV"))}
    variables |= {"PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(program: str, *arguments: str) -> str:
        command = [str(scripts / program), *arguments]
        done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "building the maskrcnn operators (once, half a minute)" in run("maskrcnn", "env")
    again = run("python", "-m", "maskrcnn.env")
    assert "compiled for CPU" in again and "building" not in again
    assert torch == ["torch", "torchvision"] or "torch: 2.10." in " ".join(again.split())
    code = "from pathlib import Path; from maskrcnn.data.datasets.shapes import generate; "
    run("python", "-c", code + "generate(Path(), train=4, val=2, seed=0, workers=1)")
    run("maskrcnn", "train", "--config", "demo/shapes", "OUTPUT_DIR", "run", *TINY)
    assert (place / "run" / "model_final.pth").is_file()
    run("maskrcnn", "predict", "shapes/val", "--run", "run", "--output", "pictures", "--score-threshold", "0")
    assert len(list((place / "pictures").iterdir())) == 2
    assert sorted(package.rglob("*")) == before
