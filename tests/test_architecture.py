"""The layers of docs/architecture.md, read from the imports, and how much code an inference goes through."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "maskrcnn"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each room may import, besides itself and `conventions`.
LAYERS = {
    "registry": set(),
    "distributed": set(),
    "conventions": set(),
    "atomic": set(),
    "config": {"registry"},
    "ops": set(),
    "structures": {"ops"},
    "modeling": {"ops", "structures", "registry"},
    "data": {"structures", "ops", "registry", "distributed"},
    "evaluation": {"structures", "data", "ops", "registry", "distributed", "atomic"},
    "checkpoint": {"structures", "distributed", "atomic"},
    "visualization": {"structures", "ops", "atomic"},
    "interop": {"structures", "ops"},
    "env": {"ops"},
}
BELOW_ENGINE = set(LAYERS)
LAYERS |= {"engine": BELOW_ENGINE, "cli": BELOW_ENGINE | {"engine", ""}, "__main__": {"cli"}}


def module_of(path: Path) -> str:
    parts = ("maskrcnn", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """`maskrcnn.ops.nms` -> ops; the package itself -> ""."""
    return module.split(".")[1] if "." in module else ""


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Modules of the package that these statements import; of `from package import name`, a submodule of that name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "maskrcnn")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module and node.module.split(".")[0] == "maskrcnn":
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    yield submodule if submodule in MODULES else node.module


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes outside functions, and outside `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        is_typing = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not is_typing and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from run_at_import(node)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_there_is_a_package_to_check() -> None:
    assert {"registry", "config", "ops", "structures", "modeling", "data", "engine"} <= {room_of(m) for m in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_layers(module: str) -> None:
    room = room_of(module)
    if not room:
        return  # the package's own __init__ gathers from everywhere
    assert room in LAYERS, f"{module}: no layer says what {room} may import"
    allowed = LAYERS[room] | {room, "conventions"}
    for name in imported(ast.walk(parse(MODULES[module]))):
        assert room_of(name) in allowed, f"{module} imports {name}; {room} may import {', '.join(sorted(allowed))}"


def test_no_import_cycles() -> None:
    graph = {module: sorted({*imported(run_at_import(parse(path)))} - {module}) for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "imports go in a circle: " + " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in graph.get(module, []):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


# These hand over to one of their files; every other __init__ re-exports or registers.
DISPATCHERS = {"maskrcnn.cli", "maskrcnn.data.datasets", "maskrcnn.checkpoint.importers"}


def test_init_files_only_gather() -> None:
    gathering = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign)
    for module in [m for m, path in MODULES.items() if path.name == "__init__.py" and m not in DISPATCHERS]:
        odd = [type(node).__name__ for node in parse(MODULES[module]).body if not isinstance(node, gathering)]
        assert not odd, f"{module} does more than gather: {odd}"


def test_environment_variables_are_read_in_three_places_and_set_in_one() -> None:
    allowed = {"maskrcnn.config.loader", "maskrcnn.distributed", "maskrcnn.ops.extension"}
    allowed |= {"maskrcnn.engine.determinism"}  # cuBLAS takes its workspace from nowhere else
    for module, path in MODULES.items():
        reads = [
            node
            for node in ast.walk(parse(path))
            if isinstance(node, ast.Attribute)
            and node.attr in ("environ", "getenv")
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        ]
        assert not reads or module in allowed, f"{module} reads environment variables"


def test_inference_of_mask_rcnn_enters_fewer_than_20_files() -> None:
    """A newcomer can read everything that one image goes through."""
    torch = pytest.importorskip("torch")
    from maskrcnn import build_model, load_config
    from maskrcnn.structures import Sample

    cfg = load_config(
        "mask_rcnn/mask_rcnn_r50_fpn_160k_coco.yaml",
        ["MODEL.NUM_CLASSES=2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0", "TEST.DETECTIONS_PER_IMAGE=2"],
    )
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    sample = Sample(image=image, image_id=1, original_size=(64, 96))
    entered: set[str] = set()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            entered.add(str(Path(frame.f_code.co_filename).relative_to(PACKAGE)))

    with torch.inference_mode():
        sys.setprofile(profile)
        try:
            detections = model([sample])
        finally:
            sys.setprofile(None)

    assert len(detections[0]) == 2 and "modeling/roi_heads/mask.py" in entered  # or nothing was traced to the end
    assert len(entered) < 20, f"{len(entered)} files: {', '.join(sorted(entered))}"
