"""How the steps of a build report how far they are."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far each step is: ``total`` 0 means unknown, ``done == total`` finished."""

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Report ``done`` of ``total`` parts of ``step``."""
        ...


def quiet(step: str, done: int, total: int, detail: str = "") -> None:
    """Report nothing."""
