"""A tiny bundle with a graph for every engine: what a device builds from, made without onnx."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_fusion.bundle import Bundle, write_bundle
from edge_fusion.manifest import FlavourRecord

MODELS = Path(__file__).resolve().parents[1] / "models"

#: The file of each flavour in ``tests/models``; two may share one.
FLAVOUR_FILES = {
    "strong.fp32": "tiny.fp32.onnx",
    "strong.fp16": "tiny.fp16.onnx",
    "strong.int8": "tiny.int8.onnx",
    "weak.fp32": "tiny.fp32.onnx",
    "weak.fp16": "tiny.fp32.onnx",
    "weak.int8": "tiny.weak.int8.onnx",
}


def bundle_with_flavours(
    bundle: Bundle,
    path: Path,
    *,
    replaced: Mapping[str, bytes] | None = None,
    kept_fp32: Mapping[str, str] | None = None,
) -> Bundle:
    """A copy of a tiny bundle at ``path`` with every flavour, or others in their place."""
    files = {name: bundle.file(name) for name in bundle.manifest.files}
    records = {}
    for flavour, source in FLAVOUR_FILES.items():
        name = f"model.{flavour}.onnx"
        files[name] = (replaced or {}).get(flavour, (MODELS / source).read_bytes())
        records[flavour] = FlavourRecord(
            file=name,
            target="orin-nano@6.2",
            precisions={"int8": 2},
            kept_fp32=dict(kept_fp32 or {}),
            to_reference=0.0,
            to_fp32=0.0,
            reference_to_fp32=0.0,
            samples=1,
        )
    manifest = bundle.manifest.model_copy(update={"flavours": records, "files": {}})
    return write_bundle(path, manifest, files)
