"""Keep artifact bytes until their upload, once per content."""
