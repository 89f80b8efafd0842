"""`maskrcnn env`: what a bug report needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from maskrcnn import env


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="maskrcnn env", description=__doc__).parse_args(argv)
    print(env.summary())
    return 0
