"""`python -m sparsteer` is the command `sparsteer`."""

import sys

from sparsteer.cli.entry import main

sys.exit(main())
