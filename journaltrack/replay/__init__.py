"""Replay a journal in one pass: pending entries become requests, and answers are recorded."""
