"""Move journals and evidence between places: bundles, exports, receipts, merges."""
