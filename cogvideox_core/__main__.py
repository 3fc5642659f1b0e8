"""`python -m cogvideox_core` is the command `cogvideox`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
