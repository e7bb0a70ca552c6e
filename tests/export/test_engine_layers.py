"""What the inspector says, in every form that was met, and in none of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_fusion.engine import LayerSummary
from edge_fusion.export.engine_layers import inspected_layers, precision_of, summarise


def tensors(*kinds: str, size: tuple[int, ...] = (1, 8, 4, 4)) -> list[dict[str, Any]]:
    return [{"Name": "t", "Dimensions": list(size), "Format/Datatype": kind} for kind in kinds]


#: A convolution as 8.5 shows it, with names shortened.
CONV_8 = {
    "Name": "w + q1 + conv1 + relu1",
    "LayerType": "CaskConvolution",
    "Inputs": tensors("Thirty-two wide channel vectorized row major Int8 format."),
    "Outputs": tensors("Channel major FP16 format where channel % 8 == 0."),
    "ParameterType": "Convolution",
    "OutMaps": 8,
    "Groups": 1,
    "Weights": {"Type": "Int8", "Count": 64},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32",
    "TacticValue": "0x11bde0e1d9f2f35d",
}
#: A matrix product as the graph compiler of 10 shows it.
GEMM_10 = {
    "Name": "__myl_Fc_myl0_3",
    "LayerType": "gemm",
    "Inputs": tensors("Half", "Half", size=(1, 16, 32)),
    "Outputs": tensors("Half", size=(1, 16, 64)),
    "TacticName": "sm80_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize64x64x64",
    "StreamId": 0,
    "Metadata": "[ONNX Layer: proj/MatMul]\x1f[ONNX Layer: proj/Add]",
}
#: What the graph compiler of 8.x took over.
FOREIGN = {
    "Name": "{ForeignNode[norm/Sub...head/MatMul]}",
    "LayerType": "Myelin",
    "Inputs": tensors("Row major linear FP16 format"),
    "Outputs": tensors("Row major linear FP16 format"),
    "TacticValue": "0x0000000000000000",
}


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        (CONV_8, "int8"),
        (GEMM_10, "fp16"),
        (FOREIGN, "unknown"),
        # the tactic decides, whatever comes in and goes out
        ({"TacticName": "trt_volta_fp32_icudnn_int8x4_128x64_relu_small_nn_v1"}, "int8"),
        ({"TacticName": "ampere_int8_i16832gemm_int8_256x128_ldg16_relu_nt_v1"}, "int8"),
        ({"TacticName": "sm80_xmma_gemm_i8f32_i8i32_f32_by_fusion_tactic"}, "int8"),
        ({"TacticName": "ampere_h16816gemm_256x128_ldg8_nn_v1"}, "fp16"),
        ({"TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc"}, "fp16"),
        ({"TacticName": "sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32"}, "bf16"),
        ({"TacticName": "sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize32x32x64"}, "fp32"),
        ({"TacticName": "ampere_scudnn_128x64_relu_medium_nn_v1"}, "fp32"),
        ({"TacticName": "sm89_xmma_gemm_e4m3e4m3_e4m3f32_f32"}, "fp8"),
        # "implicit" is no INT8
        ({"TacticName": "implicit_convolve_sgemm"}, "fp32"),
        # without a tactic, what goes into a product decides
        (
            {
                "LayerType": "CaskConvolution",
                "Inputs": tensors("Int8"),
                "Outputs": tensors("Float"),
            },
            "int8",
        ),
        ({"LayerType": "gemm", "Inputs": tensors("Half"), "Outputs": tensors("Float")}, "fp16"),
        # a pointwise kernel that only reads or writes INT8 computes in what it converts
        ({"LayerType": "kgen", "Inputs": tensors("Int8"), "Outputs": tensors("Half")}, "fp16"),
        ({"LayerType": "kgen", "Inputs": tensors("Half"), "Outputs": tensors("Int8")}, "fp16"),
        (
            {"LayerType": "kgen", "Inputs": tensors("Half", "Float"), "Outputs": tensors("Half")},
            "fp32",
        ),
        (
            {"LayerType": "CaskPooling", "Inputs": tensors("Int8"), "Outputs": tensors("Int8")},
            "int8",
        ),
        (
            {"LayerType": "kgen", "Inputs": tensors("BFloat16"), "Outputs": tensors("BFloat16")},
            "bf16",
        ),
        ({"LayerType": "kgen", "Inputs": tensors("Int32"), "Outputs": tensors("Bool")}, "integer"),
        (
            {"LayerType": "PointWiseV2", "Inputs": tensors("Row major linear FP32"), "Outputs": []},
            "fp32",
        ),
        ({"LayerType": "Reformat", "Inputs": tensors("Float"), "Outputs": tensors("Int8")}, "copy"),
        ({"LayerType": "NoOp"}, "copy"),
        # nothing to go by
        ({"Name": "conv1"}, "unknown"),
        ({}, "unknown"),
        ({"LayerType": 3, "Inputs": "?", "Outputs": [None, {"Format/Datatype": 7}]}, "unknown"),
        ({"LayerType": "gemm", "TacticName": None, "Inputs": [{}]}, "unknown"),
    ],
)
def test_precision_of_a_layer(layer: dict[str, Any], precision: str) -> None:
    assert precision_of(layer) == precision


def report(*layers: Any) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["rgb", "depth"]})


def test_layers_of_both_generations_are_found_in_the_network_by_name() -> None:
    macs = {"conv1": 1024, "proj/MatMul": 3072}
    # 1024 of 4096 in INT8
    assert summarise(report(CONV_8, GEMM_10), macs) == LayerSummary(
        layers={"int8": 1, "fp16": 1}, int8_mac_share=0.25
    )


def test_a_layer_whose_name_leads_nowhere_counts_by_its_own_sizes() -> None:
    conv = {**CONV_8, "Name": "__unnamed"}  # 64 weights at 16 positions
    gemm = {**GEMM_10, "Metadata": ""}  # 16 x 64 results of 32 each
    macs = {"a": 64 * 16, "b": 16 * 64 * 32}
    share = summarise(report(conv, gemm), macs).int8_mac_share
    assert share == pytest.approx(1024 / (1024 + 32768))


def test_a_transposed_convolution_counts_where_it_reads() -> None:
    back = {
        **CONV_8,
        "Name": "__unnamed",
        "ParameterType": "Deconvolution",
        "Outputs": tensors("Int8", size=(1, 8, 8, 8)),
    }
    assert summarise(report(back), {"up": 64 * 16}).int8_mac_share == 1.0
    assert summarise(report(back), {"up": 64 * 64}).int8_mac_share is None


@pytest.mark.parametrize(
    ("layers", "macs"),
    [
        ((CONV_8, FOREIGN), {"conv1": 1024, "head/MatMul": 1024}),  # an opaque layer took the other
        ((CONV_8,), {"conv1": 1024, "lost": 1024}),  # one appears nowhere
        ((CONV_8,), {"conv1": None}),  # an operator of unknown cost
        ((CONV_8,), {}),  # nothing to compute
        (("conv1",), {"conv1": 1024}),  # built without detail: names alone
        ((), {"conv1": 1024}),
    ],
    ids=["opaque", "lost", "uncounted", "none", "names", "empty"],
)
def test_a_share_that_cannot_be_known_is_not_given(
    layers: Any, macs: dict[str, int | None]
) -> None:
    assert summarise(report(*layers), macs).int8_mac_share is None


def test_little_that_is_lost_does_not_hide_the_rest() -> None:
    assert summarise(report(CONV_8), {"conv1": 1024, "tiny": 8}).int8_mac_share == 1.0


def test_a_copy_that_is_named_after_a_layer_does_no_work_of_its_own() -> None:
    copy = {
        "Name": "Reformatting CopyNode for Input Tensor 0 to w + conv1",
        "LayerType": "Reformat",
    }
    summary = summarise(report(copy, CONV_8), {"conv1": 1024})
    assert summary == LayerSummary(layers={"copy": 1, "int8": 1}, int8_mac_share=1.0)


def test_siblings_merged_into_one_layer_count_both() -> None:
    merged = {**CONV_8, "Name": "a/conv || b/conv + relu"}
    assert summarise(report(merged), {"a/conv": 10, "b/conv": 10}).int8_mac_share == 1.0


@pytest.mark.parametrize(
    "text",
    ["", "null", "3", "not json", '"layers"', '{"Layers": 7}', "{}", "[3, null]", "[" * 100_000],
)
def test_reports_of_another_form_hold_nothing(text: str) -> None:
    assert inspected_layers(text) == []
    assert summarise(text, {"conv1": 8}) == LayerSummary(layers={}, int8_mac_share=None)


def test_a_bare_list_and_bare_names_are_read() -> None:
    assert inspected_layers('["one", {"Name": "two"}]') == [{"Name": "one"}, {"Name": "two"}]
