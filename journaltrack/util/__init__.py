"""Support that knows no journal: configuration, paths, deadlines, threads, intervals, texts."""
