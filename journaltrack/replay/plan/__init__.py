"""From pending entries to the requests to make. Decides, and sends nothing."""
