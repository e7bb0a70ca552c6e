from __future__ import annotations

import pytest

from edge_fusion.errors import OutputError
from edge_fusion.runtime.sink.destination import read_address, read_destination
from edge_fusion.runtime.source.keys import Key, filled

KEYS = {"fps": Key(float, "RATE", "pictures per second"), "token": Key(filled, "SECRET", "secret")}

READ = [
    ("web://", "", {}),
    ("WEB://:8080", ":8080", {}),
    ("web://[::1]:1?fps=2.5", "[::1]:1", {"fps": 2.5}),
    ("web://host?fps=1&token=a%20b", "host", {"fps": 1.0, "token": "a b"}),
    ("web://out%20dir/x.rrd", "out dir/x.rrd", {}),
]


@pytest.mark.parametrize(("text", "place", "values"), READ)
def test_a_destination_is_taken_apart(text: str, place: str, values: dict[str, object]) -> None:
    assert read_destination(text, "web", KEYS) == (place, values)


REFUSED = [
    ("rerun://", "expected web://"),
    ("web://?size=3", "key 'size' is unknown; web:// takes fps=RATE, token=SECRET"),
    ("web://?fps=1&fps=2", "key 'fps' is given twice"),
    ("web://?fps=fast", "fps: expected RATE, pictures per second; web:// takes"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_a_mistake_is_named_with_its_cure(text: str, message: str) -> None:
    with pytest.raises(OutputError, match=message.replace("(", r"\(")):
        read_destination(text, "web", KEYS)


def test_no_value_is_ever_shown() -> None:
    with pytest.raises(OutputError) as caught:
        read_destination("web://?token=hunter2&fps=hunter3", "web", KEYS)
    assert "hunter" not in str(caught.value)


ADDRESSES = [
    ("", ("127.0.0.1", 80)),
    (":90", ("127.0.0.1", 90)),
    (":0/", ("127.0.0.1", 0)),
    ("jetson.local", ("jetson.local", 80)),
    ("0.0.0.0:1", ("0.0.0.0", 1)),
    ("[::1]", ("::1", 80)),
    ("[fe80::1%eth0]:90", ("fe80::1%eth0", 90)),
]


@pytest.mark.parametrize(("place", "address"), ADDRESSES)
def test_an_address_is_taken_apart(place: str, address: tuple[str, int]) -> None:
    assert read_address(place, "127.0.0.1", 80, "web://") == address


@pytest.mark.parametrize("place", [":65536", "a:b", "::1", "a/b", "user@host", "a b"])
def test_what_is_no_address_is_refused(place: str) -> None:
    with pytest.raises(OutputError, match=r"is no address to listen on: expected web://X;.*65535"):
        read_address(place, "127.0.0.1", 80, "web://X")
