"""Support all packages without knowing a journal: configuration, paths, threads, texts."""
