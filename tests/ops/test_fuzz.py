"""A few hundred of the calls of tests/fuzz_ops.py, without the sanitizers."""

import subprocess
import sys
from pathlib import Path

import fuzz_ops
import pytest
import torch

from maskrcnn.ops import extension

SCRIPT = Path(fuzz_ops.__file__)

pytestmark = pytest.mark.skipif(not extension.COMPILED, reason="the operators are not compiled")


def test_every_argument_of_every_operator_can_be_made():
    names = fuzz_ops.operators()
    assert {"roi_align", "nms", "decode_keypoints"} <= set(names)
    assert not [f"{name}: {missing}" for name in names if (missing := fuzz_ops.without_generator(name))]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_random_calls_give_what_the_fake_says_or_raise():
    """In a process of its own, since a wrong one may crash."""
    done = subprocess.run([sys.executable, SCRIPT, "--calls", "600"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "600 calls" in done.stdout


def test_calls_depend_on_their_number_alone():
    for name in fuzz_ops.operators():
        cases = map(fuzz_ops.Case, ("0 5", "0 5", "0 6"))
        one, same, other = (fuzz_ops.describe(name, fuzz_ops.make_arguments(name, case)) for case in cases)
        assert one == same != other


def test_a_wrong_result_is_seen():
    """An operator that gives another shape than its fake, one that raises what it must not, and a good one."""
    name = "decode_keypoints"
    namespace = type("Namespace", (), {})()
    arguments = next(
        made
        for number in range(200)
        if good_call(name, made := fuzz_ops.make_arguments(name, fuzz_ops.Case(f"1 {number}")))
    )
    setattr(namespace, name, lambda *_: torch.zeros(3, 3, 3, 3, 3))
    with pytest.raises(fuzz_ops.Wrong, match="its fake says"):
        fuzz_ops.call(namespace, name, arguments)
    setattr(namespace, name, lambda *_: [][0])
    with pytest.raises(fuzz_ops.Wrong, match="raised IndexError"):
        fuzz_ops.call(namespace, name, arguments)


def good_call(name, arguments):
    return fuzz_ops.call(torch.ops.maskrcnn, name, arguments)
