"""How artifacts are named in an object store. Pure; knows no store."""

from __future__ import annotations

from typing import Final

DEFAULT_PREFIX: Final = "trial-component-artifacts"
"""As the original library names it."""


def object_name(name: str) -> str:
    """An artifact's name as the last part of a key; it can't leave its component's folder, whatever the name says."""
    text = name.encode(errors="replace").decode()  # a file name that is not UTF-8
    printable = "".join(char if char.isprintable() else "_" for char in text)
    return "/".join(part for part in printable.split("/") if part not in {"", "..", "."}) or "artifact"


def prefix_name(prefix: str | None) -> str:
    """The folder of a bucket that a prefix stands for; None: the default one."""
    return object_name(prefix or DEFAULT_PREFIX)
