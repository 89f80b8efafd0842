"""Batches of samples for training, without end, and for testing, each image once.

What a sample looks like and which batch it is in depend on the seed and on its position in the stream alone: not on
the number of workers or processes, nor on whether training was interrupted.
"""

from __future__ import annotations

import gc
import io
import itertools
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from maskrcnn.data.records import Dataset, DatasetError, ImageRecord
from maskrcnn.data.shared import SharedArrays
from maskrcnn.distributed import rank, world_size
from maskrcnn.structures.samples import Sample

Mapper = Callable[[ImageRecord, np.random.Generator], Sample]

GRACE = 20  # seconds that a worker goes on after it was asked to stop


def build_train_loader(
    dataset: Dataset,
    mapper: Mapper,
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    aspect_ratio_grouping: bool = True,
    filter_empty: bool = True,
    min_keypoints: int = 0,
    start_iteration: int = 0,
    passes: int = 1,
) -> Iterator[list[Sample]]:
    """Batches for training, without end.

    Each epoch goes through the images in a new order.

    Args:
        batch_size: images of one step over all processes; each process gets an equal share of every batch.
        num_workers: processes that prepare samples; 0 prepares them here, when they are asked for.
        seed: not negative.
        aspect_ratio_grouping: no batch holds both wide and tall images, so that little is padded.
        filter_empty: leave out images without objects (crowd regions are none).
        min_keypoints: leave out images with fewer labelled keypoints.
        start_iteration: skip the batches of so many steps, to go on with the ones of an uninterrupted run.
        passes: in how many batches, one after the other, each process gets its share of a step. A step has the same
            images for any number of processes and passes.

    Raises:
        DatasetError: no image is left; and, from the iterator, what is wrong with an image.
        ValueError: the batch cannot be divided among processes and passes.
    """
    if batch_size < 1 or batch_size % (world_size() * passes):
        among = f"{world_size()} processes" + (f" with {passes} passes each" if passes > 1 else "")
        raise ValueError(f"batch of {batch_size} images cannot be divided among {among} equally")
    kept = np.flatnonzero(dataset.num_objects > 0) if filter_empty else np.arange(len(dataset))
    if not len(kept):
        raise DatasetError(
            f"{dataset.source}: none of its {len(dataset)} images has an object to train on (crowd regions do not "
            "count); add annotations, or keep empty images with DATALOADER.FILTER_EMPTY_ANNOTATIONS False"
        )
    kept = kept[dataset.num_keypoints[kept] >= min_keypoints] if min_keypoints else kept
    if not len(kept):
        raise DatasetError(
            f"{dataset.source}: none of its {len(dataset)} images has {min_keypoints} labelled keypoints "
            "(DATALOADER.MIN_KEYPOINTS); choose annotations with keypoints, or a smaller number"
        )
    groups = dataset.aspect_ratios[kept] > 1 if aspect_ratio_grouping else np.zeros(len(kept))
    batches = TrainingBatches(
        kept, groups, batch_size=batch_size, seed=seed, start_iteration=start_iteration, passes=passes
    )
    return _unpacked(_data_loader(_Samples(dataset, mapper, seed), batches, num_workers))


def build_test_loader(dataset: Dataset, mapper: Mapper, *, batch_size: int = 1, num_workers: int) -> TestLoader:
    """Batches of every image once, in order; of several processes each has its own share, without repeats."""
    return TestLoader(dataset, mapper, batch_size=batch_size, num_workers=num_workers)


class TestLoader:
    """Batches of this process's share of the images. It can be gone through again and again, and has a length."""

    __test__ = False  # not a test for pytest

    def __init__(self, dataset: Dataset, mapper: Mapper, *, batch_size: int, num_workers: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch of {batch_size} images; it must have at least 1")
        share = [(i, i) for i in range(rank(), len(dataset), world_size())]
        batches = [share[i : i + batch_size] for i in range(0, len(share), batch_size)]
        self.dataset = dataset
        self._loader = _data_loader(_Samples(dataset, mapper, seed=0), batches, num_workers)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[Sample]]:
        return _unpacked(self._loader)


class TrainingBatches:
    """The endless stream of (image index, position) of this process, in batches.

    The stream is one permutation of the images after the other. It fills one batch for each group of images, and a
    full one comes out; so every image is seen once per epoch, whatever its group. Every process computes all batches
    and takes its share of each, whose images are thus alike on all processes.

    Args:
        indices: int (N,), the images to train on.
        groups: (N,), by which batches are kept apart.
    """

    def __init__(
        self,
        indices: np.ndarray,
        groups: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        start_iteration: int,
        passes: int = 1,
    ) -> None:
        self.indices, self.groups = indices, groups
        self.batch_size, self.seed, self.start_iteration, self.passes = batch_size, seed, start_iteration, passes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = world_size() * self.passes
        for batch in itertools.islice(self._all(), self.start_iteration, None):
            for i in range(self.passes):
                yield batch[i * world_size() + rank() :: step]

    def _all(self) -> Iterator[list[tuple[int, int]]]:
        filling: dict[Any, list[tuple[int, int]]] = {}
        indices, groups = self.indices.tolist(), self.groups.tolist()
        for position, i in enumerate(self._order()):
            batch = filling.setdefault(groups[i], [])
            batch.append((indices[i], position))
            if len(batch) == self.batch_size:
                yield filling.pop(groups[i])

    def _order(self) -> Iterator[int]:
        for epoch in itertools.count():
            yield from np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.indices)).tolist()


class _Samples(torch.utils.data.Dataset):
    """The samples of a data set by (image index, position in the stream)."""

    def __init__(self, dataset: Dataset, mapper: Mapper, seed: int) -> None:
        self.dataset, self.mapper, self.seed = dataset, mapper, seed

    def __getitem__(self, where: tuple[int, int]) -> Sample | DatasetError:
        index, position = where
        try:
            return self.mapper(self.dataset[index], np.random.default_rng([self.seed, position]))
        except DatasetError as error:
            return error  # handed over as a value: raised in a worker, it would arrive wrapped in a traceback


def _data_loader(samples: _Samples, batches: Iterable[list[tuple[int, int]]], num_workers: int) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=batches,  # any iterable will do
        num_workers=num_workers,
        collate_fn=PackedBatch if num_workers else list,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(samples.seed),  # else each pass would draw from the global generator
    )


def _start_worker(_: int) -> None:
    cv2.setNumThreads(1)  # torch's loader does the same for torch
    if hasattr(signal, "alarm"):
        # A scheduler that wants the machine asks every process of the job to stop; the training process still needs
        # its workers while it finishes a step and saves. They go with it, or by an alarm that nothing answers.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def _unpacked(loader: DataLoader) -> Iterator[list[Sample]]:
    for batch in _start_workers(loader):
        samples = batch.unpack() if isinstance(batch, PackedBatch) else batch
        for sample in samples:
            if isinstance(sample, DatasetError):
                raise sample
        yield samples


def _start_workers(loader: DataLoader) -> Iterator[Any]:
    """iter(loader), its workers forked while OpenCV has no threads here: a copy of its pool, without the threads of
    it, would wait for them for ever in the worker. Objects that are there already are left out of the workers' garbage
    collections, which would write to each of them, and so copy its page of memory."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    gc.freeze()
    try:
        return iter(loader)
    finally:
        gc.unfreeze()
        cv2.setNumThreads(threads)


class PackedBatch:
    """A batch on its way from a worker: one block of shared memory with all its tensors' values, and a pickle.

    Sent as they are, its 10 or so tensors per image would cost a file descriptor each.
    """

    def __init__(self, samples: Sequence[Sample | DatasetError]) -> None:
        buffers: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(list(samples))
        self._pickle = stream.getvalue()
        try:
            self._arrays = SharedArrays([np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers])
        except RuntimeError as error:
            raise RuntimeError(
                f"no shared memory for a batch ({error}): give the container more (docker run --shm-size 8g), or set "
                "DATALOADER.NUM_WORKERS 0"
            ) from error

    def unpack(self) -> list[Sample]:
        """The samples; their tensors are views of the block."""
        samples: list[Sample] = pickle.loads(self._pickle, buffers=self._arrays)
        return samples


class _Pickler(pickle.Pickler):
    """Pickles tensors by their values, out of band."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        # The largest stride first, which is the order in memory: a (3, H, W) view of (H, W, 3) stays one.
        order = sorted(range(value.ndim), key=value.stride, reverse=True)
        return _tensor, (value.permute(order).contiguous().numpy(), np.argsort(order).tolist())


def _tensor(values: np.ndarray, order: list[int]) -> Tensor:
    return torch.from_numpy(values).permute(order)
