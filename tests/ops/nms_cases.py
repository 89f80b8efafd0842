"""What the tests of suppression share: the implementations, boxes, and the IoU of two boxes in Python numbers."""

import pytest
import torch

from maskrcnn.ops.extension import COMPILED, devices
from ops import cuda_on_cpu


def implementations(name, public, reference):
    """Fixture parameters: functions of the public arguments' order, from each source of the operator."""
    return [
        pytest.param(lambda: public, id="public"),
        pytest.param(lambda: reference, id="reference"),
        pytest.param(lambda: getattr(cuda_on_cpu.operators(), name), id="cuda source"),
        pytest.param(lambda: on_cuda(name), id="cuda"),
    ]


def on_cuda(name):
    if not torch.cuda.is_available() or "cuda" not in devices(name):
        pytest.skip("needs a GPU and the CUDA kernels")
    operator = getattr(torch.ops.maskrcnn, name)

    def run(*arguments):
        results = operator(*(a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments))
        return results.cpu() if isinstance(results, torch.Tensor) else tuple(r.cpu() for r in results)

    return run


def namespaces():
    """Where the compiled operators are: `torch.ops.maskrcnn`, and the CUDA source on the CPU."""
    if not COMPILED:
        pytest.skip("the operators are not compiled")
    return [torch.ops.maskrcnn, cuda_on_cpu.operators()]


def overlap(a, b):
    """IoU of two boxes from their corners."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [max(0.0, c[2] - c[0]) * max(0.0, c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height) if width * height > 0 else 0.0


def nms_by_hand(boxes, scores, groups, threshold):
    """The definition: go through the boxes by falling score, keep what no kept box of the group overlaps too much."""
    boxes, scores, groups = boxes.tolist(), scores.tolist(), groups.tolist()
    kept = []
    for i in sorted((i for i in range(len(boxes)) if scores[i] == scores[i]), key=lambda i: -scores[i]):
        if not any(groups[i] == groups[k] and overlap(boxes[i], boxes[k]) > threshold for k in kept):
            kept.append(i)
    return kept


def crowded_boxes(count, seed=0, extent=100.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent
    size = 5 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent / 2
    scores = torch.randperm(count, generator=generator).double() / max(count, 1)  # all different
    return torch.cat([corner, corner + size], dim=1), scores


def integer_boxes(count, seed=0, extent=12):
    """On a coarse grid, where overlaps equal to a threshold, equal boxes, and boxes without area are common."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, extent, (count, 2), generator=generator)
    size = torch.randint(0, extent // 2, (count, 2), generator=generator)
    scores = torch.randint(0, 5, (count,), generator=generator) / 4  # many equal
    return torch.cat([corner, corner + size], dim=1).float(), scores


def random_groups(count, kinds=5):
    return torch.randint(-(kinds // 2), kinds - kinds // 2, (count,), generator=torch.Generator().manual_seed(1))
