"""What is removed from a journal, on the record."""
