import pytest
import torch

from maskrcnn.ops.ranges import check_packed, expand_ranges


def test_expand_ranges():
    owner, element = expand_ranges(torch.tensor([5, 0, 7]), torch.tensor([2, 0, 3]))
    assert owner.tolist() == [0, 0, 2, 2, 2]
    assert element.tolist() == [5, 6, 7, 8, 9]


def test_check_packed():
    offsets = torch.tensor([0, 2, 2, 5])
    check_packed(torch.tensor([2, 0, 1]), offsets=(offsets, 5))
    check_packed(torch.tensor([], dtype=torch.int64), offsets=(offsets[:1], 0))
    for index in ([0, 3], [0, -1]):
        with pytest.raises(ValueError, match="^index: element 1 is .*, but there are 3 objects$"):
            check_packed(torch.tensor(index), offsets=(offsets, 5))
    with pytest.raises(ValueError, match="^offsets: element 3 is 5; expected 2 to 4$"):
        check_packed(torch.tensor([0]), offsets=(offsets, 4))
    with pytest.raises(ValueError, match="^offsets: element 0 is -1; expected 0 to 5$"):
        check_packed(torch.tensor([0]), offsets=(offsets - 1, 5))
