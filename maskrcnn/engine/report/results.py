"""What an evaluation left in a run's folder, read again: figures, and detections image by image."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.atomic import WholeFile
from maskrcnn.data import Dataset
from maskrcnn.data.records import ImageRecord
from maskrcnn.engine.folder import results_folder
from maskrcnn.engine.provenance import without_secrets
from maskrcnn.evaluation.coco import FIGURES_FILE, RESULTS_FILE, ground_truth
from maskrcnn.evaluation.results import write_json

EVALUATION_FILE = "evaluation.json"

Rows = Sequence[Mapping[str, Any]]


class ReportError(ValueError):
    """A report cannot be made of a folder: says which file is missing or does not fit, and what to do."""


def write_page(text: str, path: Path) -> None:
    """Raises ReportError when it cannot be written, as on a full disk."""
    try:
        with WholeFile(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error}") from error


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated, such as "iteration 699" or the path of its weights, when (ISO 8601), and how long it took.

    Args:
        figures: the folders within that of the results in which it has left figures, "." for that itself: others may
            have some of earlier evaluations. None: unknown.
    """

    what: str
    when: str
    seconds: float
    figures: tuple[str, ...] | None = None

    @classmethod
    def now(cls, what: str, seconds: float, figures: tuple[str, ...] | None = None) -> Evaluated:
        return cls(without_secrets(what), datetime.now(UTC).isoformat(timespec="seconds"), round(seconds, 1), figures)

    def write(self, folder: Path) -> None:
        write_json(folder / EVALUATION_FILE, vars(self))

    @classmethod
    def read(cls, folder: Path) -> Evaluated | None:
        """None where no evaluation has said what it was of."""
        path = folder / EVALUATION_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            figures = content.get("figures")
            known = None if figures is None else tuple(map(str, figures))
            return cls(without_secrets(str(content["what"])), str(content["when"]), float(content["seconds"]), known)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def evaluated_folder(inference: Path, name: str, names: Collection[str]) -> Path | None:
    """Where the figures of one of a run's test sets are; None if the last evaluation has left none."""
    folder, note = results_folder(inference, name, names), Evaluated.read(inference)
    if note and note.figures is not None and folder.relative_to(inference).as_posix() not in note.figures:
        return None
    return folder if (folder / FIGURES_FILE).exists() else None


def read_figures(folder: Path) -> dict[str, Any]:
    """What the evaluator wrote to `coco_figures.json`.

    Raises:
        ReportError: the file is no JSON, or has none of the evaluator's fields.
    """
    path = folder / FIGURES_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.keys() >= {"images", "classes", "objects", "kinds"}:
            return content
    except (OSError, ValueError, AttributeError):
        pass
    raise ReportError(f"{path} is not what the evaluator writes; evaluate again with --eval-only")


class ResultsFile:
    """A results file in COCO's form: text in memory, of which one image at a time is read.

    A list of dicts for each detection would take several times the memory of the text.

    Args:
        path: a list of results, those of an image next to each other.

    Raises:
        ReportError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ReportError(f"{path} is missing, which holds an evaluation's detections; evaluate with --eval-only")
        self.text = path.read_text(encoding="utf-8")
        self.places: dict[int | str, list[int]] = defaultdict(list)  # where each detection's text begins
        self.decoder = json.JSONDecoder()
        self._index()

    def _index(self) -> None:
        """Notes where the detections of each image are."""
        try:
            if not self.text.lstrip().startswith("["):
                raise ValueError
            position = self.text.index("[") + 1
            while self.text[position := self._skip(position)] != "]":
                result, end = self.decoder.raw_decode(self.text, position)
                self.places[result["image_id"]].append(position)
                position = end
        except (ValueError, KeyError, TypeError, IndexError):
            raise ReportError(f"{self.path} is no list of detections in COCO's form") from None

    def _skip(self, position: int) -> int:
        while self.text[position : position + 1] in (",", " ", "\n", "\r", "\t"):
            position += 1
        return position

    def __getitem__(self, image_id: int | str) -> list[dict[str, Any]]:
        """An image's detections, as the file has them; none for an image that it does not name."""
        return [self.decoder.raw_decode(self.text, place)[0] for place in self.places.get(image_id, ())]


class Results:
    """The ground truth and the detections of a data set, image by image, in ascending order of the images' ids.

    That is the evaluator's order, which decides between equal scores.
    """

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self.dataset = dataset
        self.file = ResultsFile(folder / RESULTS_FILE)
        if strange := self.file.places.keys() - set(dataset.image_ids.tolist()):
            raise ReportError(
                f"{self.file.path} has detections in image {min(strange, key=str)}, which the data set "
                f"{dataset.name!r} lacks; evaluate again with --eval-only"
            )
        self.label_of = {category: label for label, category in enumerate(dataset.category_ids)}
        self.order = np.argsort(dataset.image_ids, kind="stable")
        self.annotations: dict[int | str, list[dict[str, Any]]] = defaultdict(list)
        for annotation in ground_truth(dataset)["annotations"]:
            self.annotations[annotation["image_id"]].append(annotation)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> tuple[Rows, Rows]:
        """Annotations and results of the i-th image, in COCO's form."""
        image_id = int(self.dataset.image_ids[self.order[i]])
        return self.annotations.get(image_id, []), self.file[image_id]

    def size(self, i: int) -> tuple[int, int]:
        """(h, w) of the i-th image."""
        h, w = self.dataset.sizes[self.order[i]].tolist()
        return h, w

    def record(self, i: int) -> ImageRecord:
        return self.dataset[int(self.order[i])]
