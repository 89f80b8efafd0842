"""MODEL.WEIGHTS: reading what it names, and fitting it to a model's parameters with every mismatch told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrcnn.checkpoint.classes import ClassRows, Taken, take_classes
from maskrcnn.checkpoint.download import SCHEMES, fetch, shown
from maskrcnn.checkpoint.files import CheckpointError, load_checkpoint
from maskrcnn.checkpoint.importers import ImportFailed, Weights, recognise, torchvision

LISTED = 12  # lines of a list in a message
COUNTERS = "num_batches_tracked"  # of BatchNorm: a count that only a momentum of None would read


def read_weights(spec: str) -> Weights:
    """Read one entry of MODEL.WEIGHTS: a file, a URL with its hash, or weights by name.

    `model_final.pth`, `https://HOST/FILE#sha256=HASH`, `torchvision://ResNet50_Weights.IMAGENET1K_V1`.

    Raises:
        CheckpointError: a file that is missing, damaged, unsafe or without tensors; a name unknown or not to be had.
    """
    try:
        if spec.startswith(torchvision.SCHEME):
            content: dict[str, Any] = torchvision.read_named(spec)
        elif spec.startswith(SCHEMES):
            content, spec = load_checkpoint(fetch(spec)), shown(spec)
        else:
            content = load_checkpoint(Path(spec).expanduser())
        if "model" in content and ("class_names" in content or "needs" in content):
            return _own(content, spec)
        state = _state_of(content, spec)
        if (found := recognise(state, content)) is None:
            return Weights(tensors=state, source=spec)
        return replace(found, source=f"{spec} ({found.source})")
    except ImportFailed as error:
        raise CheckpointError(f"{spec}: {error}") from error


def merge(parts: Sequence[Weights]) -> Weights:
    """Several weights as one, later ones winning, tensor by tensor and need by need."""
    from_last = {key: part for part in parts for key in part.needs}
    return Weights(
        tensors={name: tensor for part in parts for name, tensor in part.tensors.items()},
        source=", ".join(part.source for part in parts),
        class_names=next((part.class_names for part in reversed(parts) if part.class_names is not None), None),
        category_ids=next((part.category_ids for part in reversed(parts) if part.category_ids is not None), None),
        needs={key: part.needs[key] for key, part in from_last.items()},
        presumed=frozenset(key for key, part in from_last.items() if key in part.presumed),
    )


def _own(content: dict[str, Any], spec: str) -> Weights:
    needs = content.get("needs", {})
    if not isinstance(needs, Mapping):
        raise CheckpointError(f"{spec}: its needs are {needs!r:.80}; expected config keys and their values")
    return Weights(
        tensors=content.get("ema", content["model"]),  # the averaged weights are what the run evaluated
        source=spec,
        class_names=_listed(content, "class_names", str, spec),
        category_ids=_listed(content, "category_ids", int, spec),
        needs={key: _tuples(value) for key, value in needs.items()},
    )


def _listed(content: Mapping[str, Any], field: str, kind: type, spec: str) -> tuple[Any, ...] | None:
    values = content.get(field)
    if values is None:
        return None
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, kind) for value in values):
        raise CheckpointError(f"{spec}: its {field} are {values!r:.80}; expected a list of {kind.__name__}")
    return tuple(values)


def _tuples(value: Any) -> Any:
    """Lists as the config has them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _state_of(content: dict[str, Any], spec: str) -> dict[str, Tensor]:
    """The names and tensors of a file that somebody else wrote: flat, or under one of the usual keys."""
    inner = next((content[k] for k in ("model", "state_dict", "blobs") if isinstance(content.get(k), dict)), content)
    state = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{spec} holds no tensors; its keys are {', '.join(map(str, list(content)[:LISTED]))}")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}  # module.: saved inside DDP


@dataclass(frozen=True)
class Fit:
    """What of some weights goes into a model: the tensors, the names that only one of the two has, and the classes."""

    tensors: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    classes: Taken

    def report(self) -> str:
        lines = [f"{len(self.tensors)} tensors loaded"]
        if self.classes.shared:
            lines.append(f"rows of {len(self.classes.shared)} classes taken by name: {_some(self.classes.shared)}")
        if self.classes.fresh:
            lines.append(
                f"fresh rows for {len(self.classes.fresh)} classes that the weights do not know, "
                f"{_some(self.classes.fresh)}, in {', '.join(self.classes.tensors)}"
            )
        if self.missing:
            lines.append(
                f"{len(self.missing)} not in the weights, which keep their fresh values: {_groups(self.missing)}"
            )
        if self.unexpected:
            lines.append(
                f"{len(self.unexpected)} in the weights without a place in the model: {_groups(self.unexpected)}"
            )
        return "; ".join(lines)


def fit(weights: Weights, state: Mapping[str, Tensor], *, strict: bool, rows: ClassRows | None = None) -> Fit:
    """Compare weights with a model's `state_dict()`.

    Args:
        rows: the model's rows of classes; those of the weights are then arranged by name. None: they are the same.
        strict: every tensor of either side must be on the other one too: to evaluate, to predict, to resume. Otherwise
            weights may cover a part of the model, as a backbone's do when training starts.

    Raises:
        CheckpointError: shapes differ, nothing fits, a norm's statistics are missing, or `strict` finds a difference
            or a class that the weights do not know; lists keys and shapes, or classes.
    """
    classes = Taken(weights)
    if rows is not None and (weights.class_names is not None or not strict):
        classes = take_classes(weights, state, rows)
        others = weights.class_names not in (None, tuple(rows.names))
        if strict and others and (classes.fresh or not classes.tensors):
            raise CheckpointError(
                f"{weights.source}: weights of other classes, {_some(weights.class_names or ())}; here they are "
                f"{_some(rows.names)}"
            )
    weights = classes.weights
    tensors = {name: tensor for name, tensor in weights.tensors.items() if name in state}
    missing = [name for name in state if name not in tensors and not name.endswith(COUNTERS)]
    unexpected = [name for name in weights.tensors if name not in state and not name.endswith(COUNTERS)]
    differing = [
        f"{name}: {tuple(tensor.shape)} in the weights, {tuple(state[name].shape)} in the model"
        for name, tensor in tensors.items()
        if tensor.shape != state[name].shape
    ]
    problems = []
    if differing:
        problems.append(f"{len(differing)} shapes differ:\n{_list(differing)}")
    if (strict or not tensors) and missing:
        problems.append(f"{len(missing)} tensors of the model are not in the weights:\n{_list(missing)}")
    if (strict or not tensors) and unexpected:
        problems.append(f"{len(unexpected)} tensors of the weights are not in the model:\n{_list(unexpected)}")
    if problems:
        raise CheckpointError(f"{weights.source}: weights of another architecture. " + "\n".join(problems))
    if without := _norms_without_statistics(tensors, missing):
        raise CheckpointError(
            f"{weights.source}: {len(without)} BatchNorm layers have weights but no running statistics, with which the "
            f"model would compute nonsense:\n{_list(without)}"
        )
    return Fit(tensors, missing, unexpected, classes)


def _norms_without_statistics(tensors: Mapping[str, Tensor], missing: Sequence[str]) -> list[str]:
    layers = {name.rpartition(".")[0] for name in missing if name.endswith(("running_mean", "running_var"))}
    return sorted(layer for layer in layers if f"{layer}.weight" in tensors)


def _list(names: Sequence[str]) -> str:
    lines = [f"  {name}" for name in names[:LISTED]]
    return "\n".join(lines + ([f"  ... and {len(names) - LISTED} more"] if len(names) > LISTED else []))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def _groups(names: Sequence[str]) -> str:
    """Names by their first two parts: `roi_heads.box_head (8), neck (4)`."""
    counts: dict[str, int] = {}
    for name in names:
        group = ".".join(name.split(".")[:-1][:2]) or name
        counts[group] = counts.get(group, 0) + 1
    return ", ".join(f"{group} ({count})" for group, count in counts.items())
