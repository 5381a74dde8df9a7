"""Frameworks that are imported when a test uses them: every worker collects every module, and few
run its tests.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class Late:
    """A module, or what it has of a name, that is imported when it is used."""

    def __init__(self, module: str, name: str | None = None) -> None:
        self._place = module, name

    def _found(self) -> Any:
        module, name = self._place
        found = import_module(module)
        return found if name is None else getattr(found, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._found()(*args, **kwargs)


def needs(*modules: str) -> None:
    """Skip the tests of the module that calls this where one is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)
