"""What the reconciler delivers to: AWS (``remote``), a fake in memory (``memory``), and retries around either (``retry``)."""
