import logging

import pytest
import torch
from torch import nn

from maskrcnn.evaluation import evaluate, evaluator
from maskrcnn.structures import Sample


class Doubler(nn.Module):
    """Gives twice the image id; `fails_at` raises there."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.frozen, self.trained = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.fails_at = fails_at
        self.train()
        self.frozen.eval()  # a part that stays in evaluation mode while the rest trains

    def inference(self, samples: list[Sample]) -> list[int]:
        assert torch.is_inference_mode_enabled()
        assert not any(module.training for module in self.modules())
        if any(s.image_id == self.fails_at for s in samples):
            raise RuntimeError("broken")
        return [2 * s.image_id for s in samples]


class Total:
    def __init__(self, name: str = "total") -> None:
        self.metrics = (name,)
        self.total = 0

    def process(self, samples: list[Sample], outputs: list[int]) -> None:
        assert [2 * s.image_id for s in samples] == outputs
        self.total += sum(outputs)

    def result(self) -> dict[str, float]:
        return {self.metrics[0]: float(self.total)}


def batches() -> list[list[Sample]]:
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    return [[Sample(image, i, (2, 2)) for i in ids] for ids in ((1, 2), (3,))]


def test_it_runs_the_model_in_evaluation_mode_and_gives_every_module_its_mode_back(capsys) -> None:
    model = Doubler()
    assert evaluate(model, batches(), [Total(), Total("other")]) == {"total": 12.0, "other": 12.0}
    assert model.training and model.trained.training and not model.frozen.training
    assert not torch.is_inference_mode_enabled()
    assert capsys.readouterr().err == ""  # no progress bar where nobody watches


def test_the_modes_come_back_after_an_error() -> None:
    model = Doubler(fails_at=3)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, batches(), [Total()])
    assert model.training and not model.frozen.training


def test_no_images_and_no_evaluators() -> None:
    assert evaluate(Doubler(), [], [Total()]) == {"total": 0.0}
    assert evaluate(Doubler(), batches(), []) == {}


def test_two_metrics_of_one_name_are_an_error_before_the_model_runs() -> None:
    with pytest.raises(ValueError, match="two evaluators give the metric total"):
        evaluate(Doubler(fails_at=1), batches(), [Total(), Total()])


@pytest.mark.parametrize(("world", "words"), [(1, "on 3 images took"), (4, "on 3 images, the share of one of 4")])
def test_the_log_says_whose_images_it_counts(monkeypatch, caplog, world: int, words: str) -> None:
    monkeypatch.setattr(evaluator, "world_size", lambda: world)
    with caplog.at_level(logging.INFO):
        evaluate(Doubler(), batches(), [])
    assert words in caplog.text
