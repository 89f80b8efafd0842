"""Write the page about a run: the same as `maskrcnn report`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
