"""Write weights for other libraries: the same as `maskrcnn export`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
