"""python -m fergeneral: the command line, as `fergeneral` alone."""

import sys

from fergeneral.cli import main

sys.exit(main())
