"""The tiny network on each step of the road, made once."""

from __future__ import annotations

from types import ModuleType

import onnx
import pytest

from edge_fusion.export.simplify import simplify
from edge_fusion.export.trace import trace
from tests.export import tiny as tiny_networks


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module of tiny networks, graphs and samples."""
    return tiny_networks


@pytest.fixture(scope="session")
def traced() -> onnx.ModelProto:
    """The tiny network, traced; not to be changed."""
    return trace(tiny_networks.two_stream(), tiny_networks.SPEC)


@pytest.fixture(scope="session")
def simplified(traced) -> onnx.ModelProto:
    """The same, simplified; not to be changed."""
    return simplify(traced).model
