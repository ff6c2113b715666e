"""`python -m sparsteer.cli` is the command `sparsteer`."""

import sys

from .main import main

sys.exit(main())
