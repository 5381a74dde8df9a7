"""The journal's tables and triggers: their definition, their check, and their upgrades."""
