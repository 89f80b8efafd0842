"""Draw annotations: the same as `maskrcnn show_data`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["show_data", *sys.argv[1:]]))
