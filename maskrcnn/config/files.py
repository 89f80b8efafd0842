"""Reading YAML: one file with what it inherits, the folder of the shipped configs, and the modules a config imports."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from maskrcnn.config.values import ConfigError

BASE = "_BASE_"


def configs_folder() -> Path:
    """The shipped configs: package data of an installed wheel, a folder beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_path(name: str | Path) -> Path:
    """A config file by its path, or by its name among the shipped ones: `mask_rcnn/mask_rcnn_r50_fpn_1x_coco`.

    Raises:
        ConfigError: neither exists; lists the closest names.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give a config file, such as {path / 'config.yaml'}")
    folder = configs_folder()
    asked = path.as_posix().removeprefix("./").removeprefix("configs/")
    for candidate in (folder / asked, folder / f"{asked}.yaml"):
        if not path.is_absolute() and candidate.is_file():
            return candidate
    known = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml"))
    near = difflib.get_close_matches(asked, known, n=3, cutoff=0.4)
    near += [k for k in known if Path(k).stem == path.stem and k not in near]
    hint = f"; the closest shipped ones are {', '.join(near)}" if near else ""
    raise ConfigError(f"{name}: no such config file{hint}")


def shipped_name(path: Path) -> str:
    """The name of a shipped config, `mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml`; "" for any other file."""
    folder, resolved = configs_folder().resolve(), path.resolve()
    return resolved.relative_to(folder).as_posix() if resolved.is_relative_to(folder) else ""


def lineage(path: str | Path) -> tuple[Path, ...]:
    """A config's file and those that it inherits from, the nearest first.

    Raises:
        ConfigError: as `config_path` and `read_with_bases`.
    """
    return tuple(file for file, _ in read_with_bases(config_path(path)))[::-1]


def read_with_bases(path: Path, _readers: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The contents of a file, after those of the files it inherits from, without `_BASE_` itself.

    Raises:
        ConfigError: a file that is missing, unreadable, not a YAML mapping, or inherits from itself.
    """
    resolved = path.resolve()
    if resolved in _readers:
        circle = " -> ".join(p.name for p in (*_readers[_readers.index(resolved) :], resolved))
        raise ConfigError(f"{path}: {BASE} goes in a circle: {circle}")
    contents = read_yaml(path)
    bases = contents.pop(BASE, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: {BASE} is {bases!r}; expected a file name or a list of them")
    for base in bases:
        yield from read_with_bases(_find_base(base, path), (*_readers, resolved))
    yield path, contents


def _find_base(base: str, reader: Path) -> Path:
    """Beside the file that names it, else among the shipped configs."""
    beside = reader.parent / Path(base).expanduser()
    if beside.is_file():
        return beside
    try:
        if not base.startswith("."):
            return config_path(base)
    except ConfigError:
        pass
    folder = beside.parent
    neighbours = [p.name for p in folder.glob("*.yaml") if p != reader] if folder.is_dir() else []
    near = difflib.get_close_matches(beside.name, neighbours)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise ConfigError(f"{reader}: {BASE} names {base}, but there is no file {beside}{hint}")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                problem = f"{key.value} stands twice in one section, in lines {lines[key.value]} and {line}"
                raise yaml.constructor.ConstructorError(None, None, problem)
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """One file as a mapping; an empty file is an empty mapping.

    Raises:
        ConfigError: it cannot be read, is not YAML, holds a key twice, or holds something else than a mapping.
    """
    try:
        contents = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a YAML file: {_in_one_line(error)}") from error
    if contents is None:
        return {}
    if not isinstance(contents, dict):
        raise ConfigError(f"{path}: holds {type(contents).__name__}; a config is a mapping, such as 'SEED: 1'")
    return contents


def _in_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{problem}, line {mark.line + 1}" if mark else problem


def import_parts(name: str, folder: Path, origin: str) -> str:
    """Import a module of the user's, so that its parts are registered.

    The folder that it was found in joins `sys.path`, so that worker processes find it too.

    Args:
        name: dotted name, or a .py file; looked for in `folder`, then in the current one, then on Python's path.
        folder: of the file that names it.
        origin: for messages.

    Returns:
        What finds it again from anywhere: the absolute path of a file beside a config, else the module's own name.

    Raises:
        ConfigError: no such module, or another file of its name is already imported.
    """
    if name.endswith(".py"):
        path = Path(name).expanduser()
        candidates = [path, Path(path.name)]  # a run folder brought here from another machine: by file name
    else:
        path = Path(*name.split("."))
        candidates = [path.with_suffix(".py"), path / "__init__.py"]
    places = list(dict.fromkeys([folder.resolve(), Path.cwd().resolve()]))
    found = next((place / c for c in candidates for place in places if (place / c).is_file()), None)
    if found is None and name.endswith(".py"):
        raise ConfigError(f"{origin}: IMPORTS: no file {name} in {' or '.join(map(str, places))}")
    if found is None:
        _import(name, origin, places)
        return name
    found = found.resolve()
    if found not in {_file_of(module) for module in list(sys.modules.values())}:
        root, module_name = _module_name(found)
        if str(root) not in sys.path:
            sys.path.append(str(root))
        loaded = _file_of(_import(module_name, origin, places))
        if loaded != found:
            raise ConfigError(
                f"{origin}: IMPORTS: {name} means {found}, but Python knows {loaded} as {module_name}; rename yours"
            )
    return str(found)


def _module_name(file: Path) -> tuple[Path, str]:
    """The folder for Python's path and the dotted name in it: the packages around a file belong to its name."""
    parts = [] if file.name == "__init__.py" else [file.stem]
    root = file.parent
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    return root, ".".join(parts)


def _file_of(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _import(module_name: str, origin: str, places: list[Path]) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports something that is not
        looked = ", ".join([*map(str, places), "Python's path"])
        raise ConfigError(f"{origin}: IMPORTS: no module {module_name} in {looked}") from error
