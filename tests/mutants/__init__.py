"""Find the changes of the core that no test notices: ``make mutants``."""
