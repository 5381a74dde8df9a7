"""Show runs in a browser: the local page, and reports in one file."""
