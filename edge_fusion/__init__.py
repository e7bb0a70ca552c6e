"""Two-stream RGB-D saliency networks on a Jetson: built, streamed and compared.

build(BuildOptions(...)) -> Bundle      on the workstation
open_session(bundle), stream(...)       on the device
compare(bundle, ...)                    anywhere
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_fusion.bundle import Bundle
    from edge_fusion.errors import EdgeFusionError
    from edge_fusion.export.options import BuildOptions
    from edge_fusion.export.pipeline import build
    from edge_fusion.frame import RgbdFrame
    from edge_fusion.preprocess import prepare, saliency_map
    from edge_fusion.runtime.compare import compare
    from edge_fusion.runtime.session import open_session
    from edge_fusion.runtime.source.uri import open_source
    from edge_fusion.runtime.stream import stream
    from edge_fusion.spec import DepthSpec, ModelSpec

__version__ = "0.1.0"

__all__ = [
    "BuildOptions",
    "Bundle",
    "DepthSpec",
    "EdgeFusionError",
    "ModelSpec",
    "RgbdFrame",
    "__version__",
    "build",
    "compare",
    "open_session",
    "open_source",
    "prepare",
    "saliency_map",
    "stream",
]

_HOMES = {
    "Bundle": "edge_fusion.bundle",
    "BuildOptions": "edge_fusion.export.options",
    "DepthSpec": "edge_fusion.spec",
    "EdgeFusionError": "edge_fusion.errors",
    "ModelSpec": "edge_fusion.spec",
    "RgbdFrame": "edge_fusion.frame",
    "build": "edge_fusion.export.pipeline",
    "compare": "edge_fusion.runtime.compare",
    "open_session": "edge_fusion.runtime.session",
    "open_source": "edge_fusion.runtime.source.uri",
    "prepare": "edge_fusion.preprocess",
    "saliency_map": "edge_fusion.preprocess",
    "stream": "edge_fusion.runtime.stream",
}


def __getattr__(name: str) -> Any:
    # Resolved on first use: importing the package must not import torch, nor even numpy, because
    # every start of the command line passes here and `--help` has to answer at once.
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
