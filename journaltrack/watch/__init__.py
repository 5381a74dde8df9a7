"""Deliver journals while they are written. Decides when; must not know SQLite or a network."""
