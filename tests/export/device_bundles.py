"""Bundles as a device meets them: with the graphs of both flavours, and an engine's record."""

from __future__ import annotations

from pathlib import Path

from edge_fusion.bundle import Bundle, write_bundle
from edge_fusion.engine import EngineDevice, EngineOptions, EngineRecord
from edge_fusion.export.remote_probe import DeviceFacts
from edge_fusion.manifest import FlavourRecord
from tests.fakes.engine_records import record_of

FLAVOURS = tuple(f"{kind}.{p}" for kind in ("strong", "weak") for p in ("fp32", "fp16", "int8"))
ORIN = EngineDevice(name="Orin", sm="8.7", sm_count=8, tensorrt="10.3.0.30", l4t="36.4.3")


def with_flavours(
    bundle: Bundle,
    path: Path,
    names: tuple[str, ...] = FLAVOURS,
) -> Bundle:
    """A copy of ``bundle`` at ``path`` that carries the named flavours."""
    files = {name: bundle.file(name) for name in bundle.manifest.files}
    records = {}
    for name in names:
        files[f"model.{name}.onnx"] = name.encode() * 1000
        records[name] = FlavourRecord(
            file=f"model.{name}.onnx",
            target="orin-nano@6.2",
            precisions={"int8": 1},
            to_reference=0.0,
            to_fp32=0.0,
            reference_to_fp32=0.0,
            samples=1,
        )
    manifest = bundle.manifest.model_copy(update={"flavours": records, "files": {}})
    return write_bundle(path, manifest, files)


def engine_record(bundle: Bundle, plan: bytes, device: EngineDevice = ORIN) -> EngineRecord:
    """What ``build.json`` says of an INT8 engine built from ``bundle``."""
    options = EngineOptions(precision="int8", flavour="strong")
    file = bundle.manifest.flavours["strong.int8"].file
    return record_of(bundle, file, plan, device, options)


def device_facts(**changes: object) -> DeviceFacts:
    """What a probe of an Orin Nano under JetPack 6 answers, with changes."""
    jetpack_6 = {
        "root": "/home/ubuntu/edge-fusion",
        "python": "3.10.12",
        "architecture": "aarch64",
        "release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
        "model": "NVIDIA Jetson Orin Nano",
        "nvpmodel": "pmode:0002 fmode:fanNull",
        "free_bytes": 10 << 30,
        "writable": True,
        "rsync": True,
        "cv2": True,
        "venv": True,
        "installed": False,
        "tensorrt": "10.3.0",
        "tensorrt_problem": "",
    }
    return DeviceFacts.model_validate(jetpack_6 | changes)


def encode_graph(*nodes: tuple[str, str, tuple[str, ...], tuple[str, ...]]) -> bytes:
    """An ONNX file with nothing but nodes, each its name, operator, inputs and outputs."""
    encoded = [
        b"".join(
            [
                *(_field(1, name.encode()) for name in inputs),
                *(_field(2, name.encode()) for name in outputs),
                _field(3, node.encode()),
                _field(4, operator.encode()),
            ]
        )
        for node, operator, inputs, outputs in nodes
    ]
    return _field(7, b"".join(_field(1, node) for node in encoded))


def _field(number: int, content: bytes) -> bytes:
    """A field whose length comes first, in the protocol-buffer encoding."""
    length, size = bytearray(), len(content)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content
