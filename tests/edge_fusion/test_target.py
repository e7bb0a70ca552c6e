"""The target table: every row reads back, figures agree with each other, errors help."""

from __future__ import annotations

import json

import pytest

from edge_fusion.errors import TargetError
from edge_fusion.target import (
    MODE_COLUMNS,
    Target,
    all_targets,
    board_of,
    jetpack_of,
    list_targets,
    mode_rows,
    parse_target,
)


@pytest.mark.parametrize(
    ("text", "name", "tensorrt", "opset_max", "flavour"),
    [
        # without @: 6.2 for Orin, 7.1 for Thor, 5.1 for Xavier
        ("orin-nano", "orin-nano@6.2", (10, 3, 0), 20, "strong"),
        ("agx-orin-64gb", "agx-orin-64gb@6.2", (10, 3, 0), 20, "strong"),
        ("thor-t5000", "thor-t5000@7.1", (10, 13, 3), 24, "strong"),
        ("xavier-nx", "xavier-nx@5.1", (8, 5, 2), 17, "weak"),
        ("agx-xavier", "agx-xavier@5.1", (8, 5, 2), 17, "weak"),
        ("x86-gpu", "x86-gpu@11.4", (11, 4, 0), 24, "strong"),
        # patch releases, upper case, blanks
        ("orin-nano@6.2.1", "orin-nano@6.2.1", (10, 3, 0), 20, "strong"),
        ("Orin-NX-16GB@6.0", "orin-nx-16gb@6.0", (8, 6, 2), 17, "weak"),
        (" orin-nx-8gb@7.2 ", "orin-nx-8gb@7.2", (10, 16, 2), 24, "strong"),
        ("x86-gpu@8.5", "x86-gpu@8.5", (8, 5, 3), 17, "weak"),
    ],
)
def test_a_target_reads_as_written(
    text: str, name: str, tensorrt: tuple[int, ...], opset_max: int, flavour: str
) -> None:
    target = parse_target(text)
    assert target.name == name
    assert target.tensorrt == tensorrt
    assert target.opset_max == opset_max
    assert target.flavour == flavour


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_every_row_reads_back_and_goes_through_json(target: Target) -> None:
    assert parse_target(target.name) == target
    assert Target.model_validate(json.loads(target.model_dump_json())) == target
    assert set(target.weak) <= set(Target.model_fields)


@pytest.mark.parametrize(
    "target", [t for t in all_targets() if t.soc == "tegra234"], ids=lambda target: target.name
)
def test_orin_peaks_follow_from_its_silicon(target: Target) -> None:
    """An Orin SM does 4096 dense INT8 and 2048 FP16 operations per clock."""
    assert target.sm == (8, 7)
    assert target.sm_count is not None
    assert target.max_mhz is not None
    peak = target.sm_count * target.max_mhz * 4096e-6
    assert target.int8_tops == pytest.approx(peak, abs=1)
    assert target.fp16_tflops == pytest.approx(peak / 2, abs=1)


def test_boards_are_listed_at_their_usual_software_and_one_under_all_of_its_own() -> None:
    usual = {target.board: target.name for target in list_targets()}
    assert len(usual) == 11
    assert usual["orin-nano"] == "orin-nano@6.2"
    names = [target.name for target in list_targets("agx-orin-64gb")]
    assert names == [f"agx-orin-64gb@{v}" for v in ("5.1", "6.0", "6.1", "6.2", "7.2", "7.2.2")]
    assert [target.name for target in list_targets("orin-nano@6.2.1")] == ["orin-nano@6.2.1"]


def test_super_mode_comes_with_jetpack_6_2() -> None:
    before, after = parse_target("orin-nano@6.1"), parse_target("orin-nano@6.2")
    assert (before.max_mhz, before.int8_tops, before.bandwidth_gbs) == (625, 20, 68)
    assert (after.max_mhz, after.int8_tops, after.bandwidth_gbs) == (1020, 33, 102)


def test_versions_compare_as_numbers() -> None:
    assert parse_target("thor-t5000@7.1").tensorrt > parse_target("orin-nano@6.2").tensorrt
    assert (8, 6) <= parse_target("orin-nano@6.0").tensorrt < (8, 7)
    assert parse_target("thor-t5000@7.1").tensorrt_text == "10.13.3"


@pytest.mark.parametrize(
    ("board", "has", "lacks"),
    [("orin-nano", "int8", "fp8"), ("thor-t4000", "fp8", None), ("xavier-nx", "fp16", "bf16")],
)
def test_precisions_of_the_chip(board: str, has: str, lacks: str | None) -> None:
    precisions = parse_target(board).precisions
    assert has in precisions
    assert lacks not in precisions


def test_dla_is_where_it_is() -> None:
    cores = {target.board: target.dla_cores for target in list_targets()}
    assert (cores["orin-nano"], cores["orin-nx-8gb"], cores["orin-nx-16gb"]) == (0, 1, 2)
    assert (cores["agx-orin-64gb"], cores["thor-t5000"]) == (2, 0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("orin-nona", ["no such board", "orin-nano-4gb", "'orin-nona'", "did you mean orin-nano?"]),
        ("", ["no such board", "got ''", "choose one of these"]),
        ("orin-nano@6.3", ["Orin Nano 8 GB does not run JetPack 6.3", "6.2.2", "orin-nano@6."]),
        ("thor-t5000@6.2", ["Thor T5000 does not run JetPack 6.2", "7.0, 7.1", "'6.2'"]),
        ("xavier-nx@6.2", ["Xavier NX does not run JetPack 6.2", "5.1.6"]),
        ("orin-nano@", ["does not run JetPack", "got ''"]),
        ("x86-gpu@9.0", ["does not run TensorRT 9.0", "8.5, 8.6, 10.3"]),
    ],
)
def test_what_is_unknown_is_answered_with_what_is_known(text: str, parts: list[str]) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(text)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("target", "mode", "sms", "mhz", "tops"),
    [
        # the same watts differ between boards, and 25 W of an Orin NX clocks below its 15 W
        ("orin-nano@6.2", "MAXN_SUPER", 8, 1020, 33.4),
        ("orin-nano@6.2", "25W", 8, 918, 30.1),
        ("orin-nano@6.2", "7W", 4, 408, 6.7),
        ("orin-nano@6.0", "15W", 8, 625, 20.5),
        ("orin-nx-16gb@6.2", "15W", 4, 612, 10.0),
        ("orin-nx-16gb@6.2", "25W", 8, 408, 13.4),
        ("orin-nx-16gb@6.2", "40W", 8, 1173, 38.4),
        ("agx-orin-64gb@6.2", "MODE_15W", 6, 408, 10.0),
        ("agx-orin-64gb@6.2", "MAXN", 16, 1300, 85.2),
    ],
)
def test_power_modes_change_the_number_of_sms_and_the_clock(
    target: str, mode: str, sms: int, mhz: int, tops: float
) -> None:
    board = parse_target(target)
    found = next(one for one in board.modes if one.name == mode)
    assert (found.sm_count, found.gpu_mhz) == (sms, mhz)
    assert board.mode_tops(found) == pytest.approx(tops, abs=0.05)


@pytest.mark.parametrize(
    "target", [t for t in all_targets() if t.modes], ids=lambda target: target.name
)
def test_power_modes_agree_with_their_masks_and_the_board(target: Target) -> None:
    """An Orin has eight TPCs of two SMs each; a set bit of the mask is one switched off."""
    for mode in target.modes:
        if mode.tpc_mask is not None:
            assert mode.sm_count == 2 * (8 - mode.tpc_mask.bit_count()), mode.name
        assert set(mode.weak) <= set(type(mode).model_fields)
    assert sum(mode.default for mode in target.modes) == 1
    assert len({mode.name for mode in target.modes}) == len(target.modes)
    fastest = target.modes[-1]
    assert (fastest.sm_count, fastest.gpu_mhz) == (target.sm_count, target.max_mhz)
    tops = [target.mode_tops(mode) or 0 for mode in target.modes]
    assert tops == sorted(tops)


def test_boards_without_a_source_have_no_power_modes() -> None:
    assert {t.board for t in all_targets() if not t.modes} == {
        "agx-xavier",
        "thor-t4000",
        "thor-t5000",
        "x86-gpu",
        "xavier-nx",
    }


def test_power_modes_are_shown_once_for_each_set_of_them() -> None:
    rows = mode_rows(list_targets("orin-nano"))
    assert [row[:2] for row in rows] == [
        ("orin-nano@5.1", "7W"),
        ("orin-nano@5.1", "15W"),
        ("orin-nano@6.2", "7W"),
        ("orin-nano@6.2", "15W"),
        ("orin-nano@6.2", "25W"),
        ("orin-nano@6.2", "MAXN_SUPER"),
    ]
    assert rows[4] == ("orin-nano@6.2", "25W", "8", "918", "240", "30.1", "15.0", "*")
    assert rows[2] == ("orin-nano@6.2", "7W", "4~", "408~", "-", "6.7~", "3.3~", "")
    assert {len(row) for row in rows} == {len(MODE_COLUMNS)}
    assert mode_rows(list_targets("thor-t5000")) == []


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("35.2.1", "5.1"),
        ("36.3.0", "6.0"),  # the table says 36.3
        ("36.3", "6.0"),
        ("36.4.0", "6.1"),
        ("36.4", "6.1"),
        ("36.4.3", "6.2"),
        ("36.4.7", "6.2.1"),
        ("38.2.2", "7.0"),  # every patch release of 38.2
        ("38.4.0", "7.1"),
        ("39.2.1", "7.2.1"),
        ("36.4.9", None),
        ("32.7.1", None),
        ("", None),
        ("36.x", None),
    ],
)
def test_jetpack_follows_from_l4t(l4t: str, jetpack: str | None) -> None:
    assert jetpack_of(l4t) == jetpack


def test_part_numbers_name_one_board_each() -> None:
    assert board_of(["p3768-0000", "p3767-0005"]) == "orin-nano"
    assert board_of(["p3767-0000"]) == "orin-nx-16gb"
    assert board_of(["p3834-0008"]) == "thor-t5000"
    assert board_of(["p9999-0000"]) is None
    assert board_of([]) is None
