"""Curation: rows in, fewer and better rows out, and a reason for each one that was dropped. `python -m posttrain.curate --help`."""
