"""Turn pending entries into the requests to make. Decides, and sends nothing."""
