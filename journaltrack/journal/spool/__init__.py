"""The spool: artifact bytes that wait for their upload, once per content."""
