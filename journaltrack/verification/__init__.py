"""What a journal delivered, against what the remote holds now."""
