"""The public face: what `import edge_fusion` promises."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

import edge_fusion


def test_every_name_has_a_home() -> None:
    assert set(edge_fusion._HOMES) == set(edge_fusion.__all__) - {"__version__"}
    assert dir(edge_fusion) == edge_fusion.__all__


@pytest.mark.parametrize("name", sorted(edge_fusion._HOMES))
def test_every_name_resolves_and_is_documented(name: str) -> None:
    home = edge_fusion._HOMES[name]
    if ".export." in home:
        pytest.importorskip("torch", reason="the workstation's half is not installed here")
    assert getattr(edge_fusion, name) is getattr(import_module(home), name)
    assert getattr(edge_fusion, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edge_fusion.nothing


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert re.fullmatch(r"\d+\.\d+\.\d+", edge_fusion.__version__)
    assert version("edge-fusion") == edge_fusion.__version__
