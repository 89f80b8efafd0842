"""Train on a Slurm cluster: the same as `maskrcnn slurm`."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["slurm", *sys.argv[1:]]))
