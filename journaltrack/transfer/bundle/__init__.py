"""Pack a journal into one file; verify and unpack such a file."""
