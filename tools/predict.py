"""Find objects in images: the same as `maskrcnn predict`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
