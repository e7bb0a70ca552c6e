"""Multiply-accumulates by node, against torch's own count."""

from __future__ import annotations

from types import ModuleType

import onnx
import pytest
from onnx import parser

from edge_fusion.export.cost import count_cost
from edge_fusion.export.node_cost import count_node_macs, mac_share

pytestmark = pytest.mark.export


def test_a_traced_network_costs_what_torch_counts(
    tiny: ModuleType, simplified: onnx.ModelProto
) -> None:
    macs = count_node_macs(simplified)
    assert None not in macs.values()
    assert (
        sum(count or 0 for count in macs.values()) == count_cost(tiny.two_stream(), tiny.SPEC).macs
    )


@pytest.mark.parametrize(
    ("body", "macs"),
    [
        ("y = Conv <kernel_shape = [3, 3]> (x, w33)", 4 * 6 * 6 * 2 * 9),
        ("y = Conv <kernel_shape = [3, 3], group = 2> (x, w133)", 4 * 6 * 6 * 9),
        ("y = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (x, t22)", 2 * 64 * 3 * 4),
        ("y = Gemm <transA = 1> (m, n)", 5 * 7 * 3),
        ("y = Gemm (n, k)", 3 * 2 * 7),
        ("y = MatMul (n, k)", 3 * 2 * 7),
    ],
)
def test_each_operator_by_hand(body: str, macs: int) -> None:
    sizes = "A, B, C, D" if "Conv" in body else "A, B"
    model = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 2, 8, 8] x, float[3, 5] m, float[3, 7] n, float[4, 2, 3, 3] w33,
           float[4, 1, 3, 3] w133, float[2, 3, 2, 2] t22, float[7, 2] k) => (float[{sizes}] y)
        {{ [it] {body} }}""")
    assert count_node_macs(model) == {"it": macs}


def test_an_unknown_shape_makes_the_share_unknown() -> None:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 3] x, float[3, 5] w) => (float[N, 5] y) { [a] y = MatMul (x, w) }""")
    macs = count_node_macs(model)
    assert macs == {"a": None}
    assert mac_share(macs, ["a"]) is None
    assert mac_share({}, []) is None
    assert mac_share({"a": 3, "b": 1}, ["b", "c"]) == 0.25
