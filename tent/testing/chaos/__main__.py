"""`python -m tent.testing.chaos`."""

import os
import sys

from tent.testing.chaos.main import main

status = main()
if status == 1:
    # Engines that broke a promise may not survive being closed at the interpreter's exit.
    sys.stdout.flush()
    os._exit(status)
sys.exit(status)
