"""What a training script touches: the tracker and what it checks, records and reads back. Must not know passes or remotes."""
