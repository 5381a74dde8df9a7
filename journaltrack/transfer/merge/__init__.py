"""Several journals, or copies of one, brought into one."""
