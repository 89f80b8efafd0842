"""Count what a model costs: the same as `maskrcnn summary`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["summary", *sys.argv[1:]]))
