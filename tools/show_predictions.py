"""Draw ground truth beside predictions: the same as `maskrcnn show_predictions`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["show_predictions", *sys.argv[1:]]))
