"""Train in four steps: the same as `maskrcnn train_steps`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["train_steps", *sys.argv[1:]]))
