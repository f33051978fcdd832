"""Training runs: `sdedit train` without its command line."""
