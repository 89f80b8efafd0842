import pytest

from maskrcnn.atomic import WholeFile


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with WholeFile(path) as part:
        part.write_text("ne")
        assert path.read_text() == "old" and part.parent == tmp_path and part.suffix == ".json"
        part.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error), WholeFile(path) as part:
        part.write_text("ne")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError), WholeFile(tmp_path / "b") as part:
        raise OSError("before anything was written")
    assert list(tmp_path.iterdir()) == [path]
