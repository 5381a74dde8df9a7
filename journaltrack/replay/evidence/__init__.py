"""Record provably what became of entries: outcomes, attestations, doubts, anchors."""
