"""The proof that a journal is as it was written: chains, attestations and tables held against each other."""
