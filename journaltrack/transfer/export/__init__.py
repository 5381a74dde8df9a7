"""Export a journal's metrics or entries to a file for other programs."""
