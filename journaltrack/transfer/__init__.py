"""Journals and evidence from one place to another: bundles, exports, receipts, merges."""
