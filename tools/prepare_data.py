"""Link or convert data sets: the same as `maskrcnn prepare_data`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare_data", *sys.argv[1:]]))
