"""Compare what a journal delivered with what the remote holds now."""
