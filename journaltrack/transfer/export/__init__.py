"""A journal's metrics or entries as a file for other programs."""
