"""Trains a score model; the same as `sdedit train`. `python train.py --help` lists the keys."""

import sys

from sdedit_pl.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
