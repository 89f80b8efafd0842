"""`maskrcnn build`: compile the operators ahead of their first use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from maskrcnn.ops import extension


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is missing, print where it lies and how long it took; 1 with the compiler's message if it failed."""
    parser = argparse.ArgumentParser(prog="maskrcnn build", description=__doc__)
    parser.add_argument(
        "--cuda",
        action=argparse.BooleanOptionalAction,
        help="build the CUDA kernels too (default: where nvcc, a torch with CUDA and CUDA sources are)",
    )
    parser.add_argument("--verbose", action="store_true", help="print the compilers' command lines and warnings")
    arguments = parser.parse_args(argv)
    try:
        library = extension.build(cuda=arguments.cuda, verbose=arguments.verbose)
    except extension.BuildError as error:
        print(f"maskrcnn build: {error}", file=sys.stderr)
        return 1
    took = f"built in {extension.build_seconds:.1f} s" if extension.build_seconds else "built before"
    print(f"operators: {library} ({took})")
    return 0
