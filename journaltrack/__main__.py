"""Run the command line as ``python -m journaltrack``, where the script is not on the path."""

from __future__ import annotations

from journaltrack.cli import main

if __name__ == "__main__":
    main(prog_name="journaltrack")
