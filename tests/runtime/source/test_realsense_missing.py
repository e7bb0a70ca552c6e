"""What is said where librealsense, or what it needs, is missing; runs with or without it."""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

from edge_fusion.errors import MissingDependencyError
from edge_fusion.runtime.source.uri import open_source


class _Broken(importlib.abc.MetaPathFinder):
    """Makes ``import pyrealsense2`` fail as the loader does where a library is missing."""

    def __init__(self, message: str) -> None:
        self.message = message

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        if name == "pyrealsense2":
            raise ImportError(self.message)


@pytest.mark.parametrize(
    ("library", "cure"),
    [
        ("libusb-1.0.so.0", "apt install libusb-1.0-0"),
        ("libudev.so.1", "apt install libudev1"),
        ("libstdc++.so.6", "install what provides this library"),
    ],
)
def test_a_missing_system_library_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str, cure: str
) -> None:
    monkeypatch.delitem(sys.modules, "pyrealsense2", raising=False)
    message = f"{library}: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(sys, "meta_path", [_Broken(message), *sys.meta_path])
    with pytest.raises(MissingDependencyError) as caught:
        open_source("realsense://")
    assert str(caught.value) == f"pyrealsense2 needs {library}, which is not installed; {cure}"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(
        MissingDependencyError,
        match=r"'realsense://' needs pyrealsense2.*\[realsense\].*libusb",
    ):
        open_source("realsense://")
