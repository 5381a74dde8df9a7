"""Prove that a journal is as it was written: chains, attestations, tables."""
