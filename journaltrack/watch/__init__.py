"""Journals that are delivered as they are written. Decides when; knows neither SQLite nor a network."""
