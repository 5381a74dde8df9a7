"""Give a training script its tracker: check, record and read back.

Must not know passes or remotes.
"""
