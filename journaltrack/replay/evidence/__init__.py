"""What became of entries, as records that can be proven: outcomes, attestations, doubts and anchors."""
