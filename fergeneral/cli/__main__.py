"""python -m fergeneral.cli: the command line, as `fergeneral` alone."""

import sys

from fergeneral.cli import main

sys.exit(main())
