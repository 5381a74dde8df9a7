"""A journal in one file: packing, proving, unpacking."""
