"""Replay a journal in one pass: send what is pending, and record the answers."""
