"""Other experiment trackers, measured as ours is: ``python -m benchmarks.peers``, see
benchmarks/README.md.

Each peer lives in a virtual environment of its own (``environments``), made on first use from the
pins of ``peers.txt``. What runs there is ``harness.py`` with one file of ``adapters/``, which
import nothing of journaltrack's; what kills, counts and reports (``campaign``, ``outcomes``) runs
here and knows no peer's library.
"""
