"""`python -m tent`: the command line."""

import sys

from tent.cli import main

if __name__ == "__main__":
    sys.exit(main())
