"""What the reconciler delivers to: AWS (``aws``), a fake in memory (``memory``), and retries around either (``retry``)."""
