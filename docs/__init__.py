"""Hold the documentation as a package, so that the wheel carries it for ``journaltrack help``."""
