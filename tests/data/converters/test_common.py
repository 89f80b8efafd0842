from __future__ import annotations

import pytest

from maskrcnn.data import DatasetError
from maskrcnn.data.converters import read_names
from maskrcnn.data.converters.common import files_below


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "cat\n  guide dog \n7\n\n"),
        ("a.names", "\ufeffcat\r\nguide dog\r\n7"),
        ("a.yaml", "names: [cat, guide dog, 7]"),
        ("a.yml", "nc: 3\nnames: {1: guide dog, 0: cat, 2: 7}"),
    ],
)
def test_names(folder, name, content):
    assert read_names(folder.text(name, content)) == ("cat", "guide dog", "7")


WRONG = {
    "a.txt": [
        ("\n", "holds no name"),
        ("cat\n\ndog", "holds no name, or an empty one"),
        ("cat\ndog\ncat\n", "the class 'cat' stands in it 2 times"),
    ],
    "a.yaml": [
        ("names: {1: cat, 2: dog}", "'names' must count 0, 1, 2, ..., but has 1, 2"),
        ("names: cat", "no list 'names'"),
        ("nc: 2", "no list 'names'"),
        ("- cat", "must be a mapping"),
        ("a: [\nb", "not a YAML file: see line 2"),
    ],
}


@pytest.mark.parametrize(("name", "content", "message"), [(n, *case) for n, cases in WRONG.items() for case in cases])
def test_wrong_names(folder, name, content, message):
    with pytest.raises(DatasetError, match=f"{name}: {message}"):
        read_names(folder.text(name, content))


def test_no_file_of_names(folder):
    with pytest.raises(DatasetError, match=r"nothing\.txt: cannot be read: No such file"):
        read_names(folder.root / "nothing.txt")


def test_files_below_links_and_circles(folder):
    for name in ("b.xml", "a/C.XML", "a/c.txt", ".git/d.xml", ".e.xml"):
        folder.text(name, "")
    folder.text("../elsewhere/f.xml", "")
    (folder.root / "linked").symlink_to(folder.root.parent / "elsewhere")
    (folder.root / "a" / "circle").symlink_to(folder.root)
    found = [path.relative_to(folder.root).as_posix() for path in files_below(folder.root, (".xml",))]
    assert found == ["a/C.XML", "b.xml", "linked/f.xml"]
