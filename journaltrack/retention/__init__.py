"""Remove delivered entries and contents from a journal, on the record."""
