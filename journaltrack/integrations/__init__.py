"""Log from a training framework in two lines: one module for each, which imports it.

``base`` is what they share. Nothing of journaltrack imports this package. docs/integrations.md
describes each logger.
"""
