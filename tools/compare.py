"""Write one page about several runs: the same as `maskrcnn compare`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
