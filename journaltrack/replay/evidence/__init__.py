"""Record and prove what became of entries: outcomes, attestations, anchors."""
