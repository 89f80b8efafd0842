"""`python -m maskrcnn COMMAND`: the console command, for whom it is not on the PATH."""

import sys

from maskrcnn.cli import main

sys.exit(main())
