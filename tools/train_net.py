"""Train or evaluate: the same as `maskrcnn train`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
