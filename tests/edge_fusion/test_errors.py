from __future__ import annotations

import inspect

import pytest

from edge_fusion import errors
from edge_fusion.errors import (
    EdgeFusionError,
    EngineError,
    EngineMismatchError,
    EngineMissingError,
    GateError,
    MissingDependencyError,
)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "frame 3"),
        ({"expected": "a", "got": "b"}, "frame 3: expected a, got b"),
        ({"got": "b", "cure": "do c"}, "frame 3: got b; do c"),
        ({"cure": "do c"}, "frame 3; do c"),
    ],
)
def test_message_states_expected_got_and_cure(parts: dict[str, str], message: str) -> None:
    error = EdgeFusionError("frame 3", **parts)
    assert str(error) == message
    assert error.reason == message.partition("; ")[0]


def test_every_error_is_in_the_tree_and_in_its_drawing() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) > 10
    for cls in classes:
        assert issubclass(cls, EdgeFusionError)
        assert cls.__name__ in (errors.__doc__ or "")


def test_only_a_missed_gate_exits_with_1() -> None:
    codes = {cls.exit_code for cls in EdgeFusionError.__subclasses__() if cls is not GateError}
    assert (codes, GateError.exit_code) == ({2}, 1)


def test_a_missing_package_says_which_extra_brings_it() -> None:
    error = MissingDependencyError("jinja2", needed_for="the HTML report", extra="report")
    assert "pip install 'edge-fusion[report]'" in str(error)


def test_an_engine_that_does_not_fit_says_in_what() -> None:
    error = EngineMismatchError(
        "the engine in b", field="sm_count", theirs="4", ours="8", cure="build one here"
    )
    assert str(error) == "the engine in b: sm_count: expected 8, got 4; build one here"
    assert (error.field, error.theirs, error.ours) == ("sm_count", "4", "8")
    assert isinstance(error, EngineError)


def test_an_engine_that_is_missing_is_told_apart() -> None:
    error = EngineMissingError("b has no int8 engine", cure="run: edge-fusion build b")
    assert error.reason == "b has no int8 engine"
    assert isinstance(error, EngineError)
    assert not isinstance(error, EngineMismatchError)
