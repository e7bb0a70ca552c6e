"""How the steps of a build report how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told how far each step is: ``total`` 0 means unknown, ``done == total`` finished."""

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Report ``done`` of ``total`` parts of ``step``."""
        ...


def quiet(step: str, done: int, total: int, detail: str = "") -> None:
    """Report nothing."""


@contextmanager
def step(progress: Progress, name: str) -> Iterator[Callable[[str], None]]:
    """Report a step of unknown length; call what is yielded with its outcome to finish it."""
    progress(name, 0, 0)
    yield lambda detail: progress(name, 1, 1, detail)
