"""One test for all implementations of an operator of masks: what serves the public functions, by name."""

import functools

import pytest
import torch

from maskrcnn.ops.extension import COMPILED
from ops.cuda_on_cpu import operators

IMPLEMENTATIONS = ("compiled", "reference", "CUDA source on the CPU", "CUDA")


def served_by(implementation, function, module, monkeypatch):
    """`function` of `module` (which has `DEVICES`), with tensors in and out on the CPU."""
    if implementation == "reference":
        monkeypatch.setattr(module, "DEVICES", frozenset())
        return function
    if not COMPILED:
        pytest.skip("the operators are not compiled")
    if implementation == "compiled":
        return function
    if implementation == "CUDA source on the CPU":
        return functools.partial(in_the_place_of_the_operators, operators(), monkeypatch, function)
    if not torch.cuda.is_available() or "cuda" not in module.DEVICES:
        pytest.skip("needs a GPU, and operators compiled for it")
    return functools.partial(on_the_gpu, function)


def in_the_place_of_the_operators(namespace, monkeypatch, function, *arguments, **options):
    with monkeypatch.context() as patch:
        patch.setattr(torch.ops, "maskrcnn", namespace)
        return function(*arguments, **options)


def on_the_gpu(function, *arguments, **options):
    result = function(*(a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments), **options)
    return result.cpu() if isinstance(result, torch.Tensor) else result


def dispatched(work):
    """How many operators a call runs: a loop over instances would show."""
    counter = Counter()
    with counter:
        work()
    return counter.count


class Counter(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def with_threads(work, counts=(1, 2, 3, 7)):
    threads = torch.get_num_threads()
    try:
        results = []
        for count in counts:
            torch.set_num_threads(count)
            results.append(work())
        return results
    finally:
        torch.set_num_threads(threads)
