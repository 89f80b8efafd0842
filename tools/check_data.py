"""Check a data set: the same as `maskrcnn check_data`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["check_data", *sys.argv[1:]]))
