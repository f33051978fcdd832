"""Edits from files to files: `sdedit edit` without its command line."""
