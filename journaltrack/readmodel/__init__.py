"""See runs: list, filter, sort and compare them, and read their series. Writes no journal."""
