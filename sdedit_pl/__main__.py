"""`python -m sdedit_pl VERB ...` is the same as `sdedit VERB ...`."""

import sys

from sdedit_pl.cli import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
