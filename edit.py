"""Edits images with a score model; the same as `sdedit edit`. `python edit.py --help` lists the keys."""

import sys

from sdedit_pl.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["edit", *sys.argv[1:]]))
