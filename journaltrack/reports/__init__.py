"""Journal to data: what was recorded, and what became of it. Prints nothing, changes nothing."""
