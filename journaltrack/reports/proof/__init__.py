"""Prove that a journal is as it was written: compare chains, attestations and tables."""
