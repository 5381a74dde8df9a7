"""Mirror a journal into a shared folder, segment by segment, and rebuild it from there."""
