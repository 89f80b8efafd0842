"""An annotation file of the size of COCO's, made by repeating a smaller one."""

from __future__ import annotations

from typing import Any

IMAGES, ANNOTATIONS = 118_287, 860_001  # of train2017


def repeated(content: dict[str, Any], num_images: int, num_annotations: int, *, rename: bool) -> dict[str, Any]:
    """The content with its images and annotations over and over, under ids of their own, up to these numbers.

    Args:
        rename: give copies of images names of their own too; else all of them are the files that there are.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    highest = max(image["id"] for image in content["images"]) + 1
    copy = 0
    while len(images) < num_images:
        for image in content["images"]:
            name = f"{copy}_{image['file_name']}" if rename else image["file_name"]
            images.append({**image, "id": image["id"] + copy * highest, "file_name": name})
        for annotation in content["annotations"]:
            annotations.append(
                {**annotation, "id": len(annotations) + 1, "image_id": annotation["image_id"] + copy * highest}
            )
        copy += 1
    images = images[:num_images]
    kept = {image["id"] for image in images}
    annotations = [a for a in annotations if a["image_id"] in kept][:num_annotations]
    return {**content, "images": images, "annotations": annotations}
