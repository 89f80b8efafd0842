"""A progress bar."""

from __future__ import annotations

from collections.abc import Mapping

from tqdm import tqdm

from maskrcnn.engine.writers.writer import Writer, is_training


class ProgressBar(Writer):
    """A live bar on a terminal: iterations, elapsed time and ETA, then loss, speed, rate, memory, and each loss."""

    def __init__(self, start: int, max_iter: int) -> None:
        shape = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
        self.bar = tqdm(
            total=max_iter, initial=start, unit="it", bar_format=shape, dynamic_ncols=True, smoothing=0.05, miniters=1
        )

    def advance(self) -> None:
        self.bar.update()

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        if is_training(values):
            self.bar.set_postfix_str(bar_text(values), refresh=False)

    def close(self) -> None:
        self.bar.close()


def bar_text(values: Mapping[str, float]) -> str:
    """`loss 2.31  4.1 img/s  lr 0.0004  data 3 ms  812M  cls 1.2 box 0.4 mask 0.7`: a narrow terminal cuts the end."""
    parts = [f"loss {values['total_loss']:.3g}", f"{values['imgs_per_s']:.3g} img/s", f"lr {values['lr']:.3g}"]
    parts.append(f"data {1000 * values['data_time']:.0f} ms")
    if "max_mem" in values:
        parts.append(f"{values['max_mem']:.0f}M")
    losses = [f"{name.removeprefix('loss_')} {v:.3g}" for name, v in values.items() if name.startswith("loss_")]
    return "  ".join([*parts, " ".join(losses)])
