"""`python -m sparsteer.cli` is the command `sparsteer`."""

import sys

from .entry import main

sys.exit(main())
