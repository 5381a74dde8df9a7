"""Stand in for sagemaker-experiments 0.1.45 (``smexperiments``), before a journal.

Replace ``smexperiments`` by ``journaltrack.compat.smexperiments`` in the imports of a script. Its
calls then work without a network, and a sync delivers them. docs/smexperiments.md lists what
differs.

The modules have the names of the original's. Signatures are the original's, so that calls by
position mean the same.
"""

__version__ = "0.1.45"
