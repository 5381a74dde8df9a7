"""Turn a journal into reports: what was recorded, and what became of it."""
