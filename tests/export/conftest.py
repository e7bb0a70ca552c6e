"""The tiny network on each step of the road, made once."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import onnx

# Imported by the fixtures that need them: engines are tested where torch and onnx are absent.


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module of tiny networks, graphs and samples."""
    from tests.export import tiny as tiny_networks

    return tiny_networks


@pytest.fixture(scope="session")
def traced(tiny: ModuleType) -> onnx.ModelProto:
    """The tiny network, traced; not to be changed."""
    from edge_fusion.export.trace import trace

    return trace(tiny.two_stream(), tiny.SPEC)


@pytest.fixture(scope="session")
def simplified(traced: onnx.ModelProto) -> onnx.ModelProto:
    """The same, simplified; not to be changed."""
    from edge_fusion.export.simplify import simplify

    return simplify(traced).model
