"""botocore's models, read once for all sessions of a process: SageMaker's alone takes 0.1 s and
30 MB.
"""

from __future__ import annotations

from typing import Any

from botocore.loaders import Loader


def share() -> None:
    """Let every loader that this process makes from now on use one cache."""
    read: dict[object, object] = {}
    create = Loader.__init__

    def create_sharing(self: Loader, *args: Any, **kwargs: Any) -> None:
        create(self, *args, **kwargs)
        self._cache = read

    Loader.__init__ = create_sharing
