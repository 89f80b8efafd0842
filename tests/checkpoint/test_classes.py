import pytest
import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

import maskrcnn
from maskrcnn.checkpoint import CheckpointError, ClassRows, Weights, fit
from maskrcnn.checkpoint.classes import take_classes
from maskrcnn.data.datasets.cityscapes import CLASSES as CITYSCAPES
from maskrcnn.engine.state import load_weights

ROWS = {"logits.weight": 1, "logits.bias": 1, "deltas.weight": 2}


def head(classes, value):
    """Rows that say which class they belong to: value + label, and + 0.5 for the second row of a class."""
    labels = torch.arange(classes).float()
    both = torch.stack([labels, labels + 0.5], dim=1).flatten()
    return {
        "trunk.weight": torch.full((2, 2), float(value)),
        "logits.weight": (value + torch.arange(classes + 1.0))[:, None].repeat(1, 3),
        "logits.bias": value + torch.arange(classes + 1.0),
        "deltas.weight": (value + both)[:, None].repeat(1, 3),
    }


def weights(classes, names):
    return Weights(tensors=head(classes, 100), source="some.pth", class_names=names)


def test_rows_of_shared_classes_are_taken_by_name_and_the_others_stay_fresh():
    state = head(4, 0)
    taken = take_classes(weights(3, ("cat", "dog", "car")), state, ClassRows(ROWS, ("car", "cell", "cat", "tree")))
    new = taken.weights.tensors
    assert new["logits.bias"].tolist() == [102, 1, 100, 3, 103]  # background (103) last
    assert new["logits.weight"][:, 0].tolist() == [102, 1, 100, 3, 103]
    assert new["deltas.weight"][:, 2].tolist() == [102, 102.5, 1, 1.5, 100, 100.5, 3, 3.5]
    assert new["trunk.weight"].tolist() == [[100, 100], [100, 100]]
    assert (taken.shared, taken.fresh) == (("car", "cat"), ("cell", "tree"))
    assert taken.tensors == ("logits.weight", "logits.bias", "deltas.weight")
    assert state["logits.bias"].tolist() == [0, 1, 2, 3, 4]  # the model's own are not written to


def test_no_shared_class_leaves_the_whole_tensor_fresh():
    fitted = fit(weights(3, ("a", "b", "c")), head(2, 0), strict=False, rows=ClassRows(ROWS, ("x", "y")))
    assert fitted.tensors.keys() == {"trunk.weight"}
    assert fitted.missing == list(ROWS)
    report = fitted.report()
    assert "fresh rows for 2 classes that the weights do not know, x, y, in logits.weight, logits.bias" in report


def test_the_same_classes_in_another_order_are_put_in_order_also_to_evaluate():
    fitted = fit(weights(2, ("a", "b")), head(2, 0), strict=True, rows=ClassRows(ROWS, ("b", "a")))
    assert fitted.tensors["logits.bias"].tolist() == [101, 100, 102]
    assert "rows of 2 classes taken by name: b, a" in fitted.report()


def test_a_part_of_the_classes_can_be_evaluated_but_no_unknown_one():
    names = ("N/A", "cat", "N/A", "dog")
    fitted = fit(weights(4, names), head(2, 0), strict=True, rows=ClassRows(ROWS, ("cat", "dog")))
    assert fitted.tensors["deltas.weight"][:, 0].tolist() == [101, 101.5, 103, 103.5]
    with pytest.raises(
        CheckpointError, match=r"some\.pth: .* other classes, N/A, cat, N/A, dog; here they are cat, cow$"
    ):
        fit(weights(4, names), head(2, 0), strict=True, rows=ClassRows(ROWS, ("cat", "cow")))


def test_weights_that_do_not_say_their_classes():
    same = fit(weights(2, None), head(2, 0), strict=True, rows=ClassRows(ROWS, ("a", "b")))
    assert same.tensors["logits.bias"].tolist() == [100, 101, 102]
    other = fit(weights(3, None), head(2, 0), strict=False, rows=ClassRows(ROWS, ("a", "b")))
    assert other.tensors.keys() == {"trunk.weight"} and other.classes.fresh == ("a", "b")
    with pytest.raises(CheckpointError, match=r"logits\.bias: \(4,\) in the weights, \(3,\) in the model"):
        fit(weights(3, None), head(2, 0), strict=True, rows=ClassRows(ROWS, ("a", "b")))


def test_another_architecture_is_no_matter_of_classes():
    wider = {**head(3, 100), "logits.weight": torch.zeros(4, 9)}
    with pytest.raises(CheckpointError, match=r"logits\.weight: \(4, 9\) in the weights, \(3, 3\) in the model"):
        fit(Weights(wider, "some.pth", ("a", "b", "c")), head(2, 0), strict=False, rows=ClassRows(ROWS, ("a", "b")))
    longer = {**head(3, 100), "deltas.weight": torch.zeros(7, 3)}
    with pytest.raises(CheckpointError, match=r"deltas\.weight: \(7, 3\) in the weights, \(4, 3\) in the model"):
        fit(Weights(longer, "some.pth", ("a", "b", "c")), head(2, 0), strict=False, rows=ClassRows(ROWS, ("a", "b")))


def test_a_model_that_does_not_say_its_rows_takes_no_other_classes():
    with pytest.raises(CheckpointError, match=r"other classes, a, b; here they are b, a"):
        fit(weights(2, ("a", "b")), head(2, 0), strict=True, rows=ClassRows({}, ("b", "a")))


def test_from_coco_to_cityscapes_all_but_the_rider_start_from_what_coco_knows():
    """Mask R-CNN Table 7, COCO-initialised."""
    coco = [name for name in MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:] if name != "N/A"]
    assert len(coco) == 80
    theirs, ours = (
        maskrcnn.build_model(maskrcnn.load_config("demo/shapes", ["MODEL.NUM_CLASSES", str(count)]))
        for count in (80, 8)
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    weights = Weights(theirs.state_dict(), "coco.pth", tuple(coco))
    fitted = load_weights(ours, weights, strict=False, class_names=tuple(CITYSCAPES))
    assert fitted.classes.fresh == ("rider",) and not fitted.missing and not fitted.unexpected
    report = fitted.report()
    assert "rows of 7 classes taken by name: person, car, truck, bus, train, motorcycle, bicycle" in report
    assert "fresh rows for 1 classes that the weights do not know, rider, in roi_heads." in report

    origin = [None if name == "rider" else coco.index(name) for name in CITYSCAPES]
    state, source, rows = ours.state_dict(), theirs.state_dict(), ours.class_rows()
    assert sum(name.endswith("weight") for name in rows) == 3  # class logits, box deltas, masks
    for name, tensor in state.items():
        count = rows.get(name)
        if count is None:
            assert torch.equal(tensor, source[name]), name
            continue
        for label, theirs_label in enumerate(origin):
            row = tensor[count * label : count * (label + 1)]
            old = before[name][count * label : count * (label + 1)]
            expected = old if theirs_label is None else source[name][count * theirs_label : count * (theirs_label + 1)]
            assert torch.equal(row, expected), (name, label)
        assert torch.equal(tensor[8 * count :], source[name][80 * count :])  # the background's, if any
