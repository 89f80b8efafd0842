"""The JSON file that `maskrcnn predict` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from maskrcnn.atomic import WholeFile
from maskrcnn.cli.predict_inputs import Frame
from maskrcnn.evaluation.results import detections_to_annotations, detections_to_coco
from maskrcnn.structures import Detections

FORMATS = {
    "coco": "a COCO data set with scores and RLE masks",
    "polygons": "the same with polygons",
    "coco-results": "the list that COCO's server and pycocotools take; needs --image-ids",
}


class DetectionsFile:
    """All detections in one file of a form of `FORMATS`, written image by image: whole in the end, or not there.

    Only a line about each image is kept in memory.
    """

    def __init__(self, path: Path, form: str, category_ids: Sequence[int], class_names: Sequence[str]) -> None:
        self.path, self.form = path, form
        self.category_ids, self.class_names = tuple(category_ids), tuple(class_names)
        self._images: list[dict[str, Any]] = []
        self._videos: dict[Path, int] = {}
        self._num_rows = 0
        self._whole = WholeFile(path)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._whole.part.open("w", encoding="utf-8")
        self._file.write("[" if self.form == "coco-results" else '{"annotations": [')
        return self

    def add(self, frame: Frame, detections: Detections) -> None:
        """Raises ValueError: a box or score is not a finite number."""
        image_id = len(self._images) + 1 if frame.image_id is None else frame.image_id
        if self.form == "coco-results":
            rows = detections_to_coco(detections, image_id, self.category_ids)
        else:
            polygons = self.form == "polygons"
            rows = detections_to_annotations(
                detections, image_id, self.category_ids, first_id=self._num_rows + 1, polygons=polygons
            )
        for row in rows:
            self._file.write(f"{',' if self._num_rows else ''}\n{json.dumps(row, allow_nan=False)}")
            self._num_rows += 1
        height, width = frame.pixels.shape[:2]
        image = {"id": image_id, "file_name": frame.source.as_posix(), "height": height, "width": width}
        if frame.fps is not None:
            video_id = self._videos.setdefault(frame.source, len(self._videos) + 1)
            image |= {"video_id": video_id, "frame_id": frame.number}
        self._images.append(image)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._file:
                if kind is None:
                    self._file.write("\n]" if self.form == "coco-results" else f"\n], {json.dumps(self._facts())[1:]}")
            if kind is None:
                self._whole.keep()
        finally:
            self._whole.discard()

    def _facts(self) -> dict[str, Any]:
        """What a data set has besides annotations."""
        categories = zip(self.category_ids, self.class_names, strict=True)
        facts: dict[str, Any] = {
            "images": self._images,
            "categories": [{"id": category, "name": name} for category, name in categories],
        }
        if self._videos:
            facts["videos"] = [{"id": number, "name": path.as_posix()} for path, number in self._videos.items()]
        return facts
