"""Import the runs that other tools recorded: one module for each format, and one core."""
