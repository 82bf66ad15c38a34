"""`python -m laudc` is `laudc`."""

import sys

from laudc.cli import main

if __name__ == "__main__":
    sys.exit(main())
