"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real RGB-D sets, which is never part of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("EDGE_FUSION_DATA", default))
    if not path.is_dir():
        pytest.skip("real RGB-D data is absent; set EDGE_FUSION_DATA to its folder")
    return path
