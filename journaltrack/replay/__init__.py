"""One pass: pending entries become requests to a remote, and their answers are recorded."""
