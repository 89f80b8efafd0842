import pytest
import torch

from maskrcnn.checkpoint import CheckpointError, Weights, fit, merge, read_weights, save_checkpoint

STATE = {
    "stem.conv.weight": torch.zeros(4, 3, 3, 3),
    "stem.norm.weight": torch.zeros(4),
    "stem.norm.running_mean": torch.zeros(4),
    "stem.norm.running_var": torch.zeros(4),
    "stem.norm.num_batches_tracked": torch.tensor(0),
    "head.weight": torch.zeros(2, 4),
}
STEM = {name: tensor + 1 for name, tensor in STATE.items() if name.startswith("stem") and "batches" not in name}


def weights(tensors, **facts):
    return Weights(tensors=tensors, source="some.pth", **facts)


def test_a_part_of_the_model_is_enough_to_start_from_but_not_to_evaluate():
    fitted = fit(weights(STEM), STATE, strict=False)
    assert fitted.tensors.keys() == STEM.keys()
    assert fitted.missing == ["head.weight"] and fitted.unexpected == []
    assert "4 tensors loaded; 1 not in the weights, which keep their fresh values: head (1)" in fitted.report()
    with pytest.raises(
        CheckpointError, match=r"some\.pth: .*\n?1 tensors of the model are not in the weights:\n  head"
    ):
        fit(weights(STEM), STATE, strict=True)


def test_other_shapes_are_listed_with_both_shapes():
    with pytest.raises(CheckpointError) as caught:
        fit(weights({**STEM, "head.weight": torch.zeros(3, 4)}), STATE, strict=False)
    assert "head.weight: (3, 4) in the weights, (2, 4) in the model" in str(caught.value)


def test_another_architecture_lists_keys_of_both_sides():
    deeper = {**STEM, "head.weight": torch.zeros(2, 4), "stem.conv2.weight": torch.zeros(4, 4)}
    assert fit(weights(deeper), STATE, strict=False).unexpected == ["stem.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"1 tensors of the weights are not in the model:\n  stem\.conv2\.weight"):
        fit(weights(deeper), STATE, strict=True)
    with pytest.raises(
        CheckpointError, match=r"5 tensors of the model(.|\n)*1 tensors of the weights(.|\n)*  fc\.weight"
    ):
        fit(weights({"fc.weight": torch.zeros(1)}), STATE, strict=False)


def test_a_long_list_is_cut():
    many = {f"layer{i}.weight": torch.zeros(1) for i in range(40)}
    with pytest.raises(CheckpointError, match=r"\.\.\. and 28 more"):
        fit(weights(many), STATE, strict=False)


def test_norms_without_statistics_are_refused():
    without = {name: tensor for name, tensor in STEM.items() if "running" not in name}
    with pytest.raises(
        CheckpointError, match=r"1 BatchNorm layers have weights but no running statistics(.|\n)*stem\.norm"
    ):
        fit(weights(without), STATE, strict=False)


def test_own_checkpoints_say_their_classes(tmp_path):
    save_checkpoint(tmp_path / "m.pth", {"model": STEM, "class_names": ["a", "b"], "category_ids": [3, 9]})
    read = read_weights(str(tmp_path / "m.pth"))
    assert (read.class_names, read.category_ids, dict(read.needs)) == (("a", "b"), (3, 9), {})
    assert read.tensors.keys() == STEM.keys()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_state_dicts_of_others_also_out_of_ddp(tmp_path, wrap):
    torch.save(wrap({f"module.{name}": tensor for name, tensor in STEM.items()}), tmp_path / "m.pth")
    read = read_weights(str(tmp_path / "m.pth"))
    assert read.tensors.keys() == STEM.keys() and read.class_names is None


def test_no_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="holds no tensors; its keys are epoch"):
        read_weights(str(tmp_path / "m.pth"))


def test_an_unknown_name_at_torchvision():
    with pytest.raises(CheckpointError, match="ResNet5000"):
        read_weights("torchvision://ResNet5000_Weights.IMAGENET1K_V1")


def test_later_weights_win():
    one = weights({"a": torch.zeros(1), "b": torch.zeros(1)}, class_names=("x",), category_ids=(1,), needs={"K": 1})
    merged = merge([one, weights({"b": torch.ones(1)}, needs={"L": 2})])
    assert merged.tensors["a"].item() == 0 and merged.tensors["b"].item() == 1
    assert merged.class_names == ("x",) and merged.category_ids == (1,) and merged.needs == {"K": 1, "L": 2}
    assert merge([]).tensors == {}
