"""No user, password or token in what is shown."""

from __future__ import annotations

import traceback

import pytest

from edge_fusion.errors import InputError, SourceError
from edge_fusion.runtime.source.credentials import (
    SECRET_KEYS,
    has_variables,
    shows_credentials,
    with_variables,
    without_credentials,
)
from edge_fusion.runtime.source.uri import open_source


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://me:pw@camera/1", "rtsp://***@camera/1"),
        ("rtsp://me:pw@camera:554/1?unit=mm", "rtsp://***@camera:554/1?unit=mm"),
        ("rtsp://onlyuser@camera/1", "rtsp://***@camera/1"),
        ("rtsp://:pw@camera/1", "rtsp://***@camera/1"),
        # passwords that should have been encoded: @, /, ? and : in them
        ("rtsp://me:p@w@camera/1", "rtsp://***@camera/1"),
        ("rtsp://me:p/w@camera/1", "rtsp://***@camera/1"),
        ("rtsp://me:p?w@camera/1", "rtsp://***@camera/1"),
        ("rtsp://me:p:w#@camera/1", "rtsp://***@camera/1"),
        ("rtsp://me:p%40w%2F@camera/1", "rtsp://***@camera/1"),
        # two cameras, the second one plain, encoded, encoded in lower case
        ("rtsp://a:b@c/1?depth=rtsp://d:e@f/2", "rtsp://***@c/1?depth=rtsp://***@f/2"),
        ("rtsp://c/1?depth=rtsp%3A%2F%2Fd%3Ae%40f%2F2", "rtsp://c/1?depth=rtsp%3A%2F%2F***@f%2F2"),
        ("rtsp://c/1?depth=rtsp%3a%2f%2fd%3ae%40f", "rtsp://c/1?depth=rtsp%3a%2f%2f***@f"),
        # secrets in a query, plain and encoded
        ("http://c/v?token=abc", "http://c/v?token=***"),
        ("http://c/v?a=1&Password=abc&b=2", "http://c/v?a=1&Password=***&b=2"),
        ("rtsp://c/v%3Fuser=me%26pwd=abc%26n=1?unit=mm", "rtsp://c/v%3Fuser=***%26pwd=***%26n=1?unit=mm"),
        ("rtsp://c/1?depth=rtsp://c/2%3Ftoken%3Dabc&unit=mm", "rtsp://c/1?depth=rtsp://c/2%3Ftoken%3D***&unit=mm"),
        # blanks and quotes in a password, and in a value
        ("rtsp://me:p w@camera/1", "rtsp://***@camera/1"),
        ("rtsp://me:p'w@camera/1", "rtsp://***@camera/1"),
        ('rtsp://me:p"w@camera/1?unit=mm', "rtsp://***@camera/1?unit=mm"),
        ("rtsp://m e:p/ w@camera/1", "rtsp://***@camera/1"),
        ("http://c/v?password=a b'c&n=1", "http://c/v?password=***&n=1"),
        ("cannot open rtsp://me:p w@camera/1", "cannot open rtsp://***@camera/1"),
        # secrets in a path, as recorders have them
        (
            "rtsp://c:554/user=admin_password=tlJwpbo6_channel=1_stream=0.sdp",
            "rtsp://c:554/user=***_password=***",
        ),
        # a password after a port-like one, in the second address alone
        ("v4l2://0?depth=rtsp://me:pw@camera/1", "v4l2://0?depth=rtsp://***@camera/1"),
        # inside a sentence
        ("cannot open 'rtsp://me:pw@c/1': gone", "cannot open 'rtsp://***@c/1': gone"),
    ],
)  # fmt: skip
def test_what_is_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown
    assert without_credentials(shown) == shown


@pytest.mark.parametrize(
    "uri",
    [
        "demo://?seed=3",
        "folder:///data/set?rgb=*_color.png&unit=mm",
        "folder://../a@b/c",
        "rtsp://camera:554/stream@2?unit=mm",
        "rtsp://camera/stream@2",
        "v4l2:///dev/video0?depth=/dev/video2&unit=mm",
        "realsense://?serial=123",
        "/plain/path/with@sign",
        "video://monkey=1.mp4?depth=b.mkv",
    ],
)
def test_what_holds_no_credentials_stays(uri: str) -> None:
    assert without_credentials(uri) == uri


@pytest.mark.parametrize("key", SECRET_KEYS)
@pytest.mark.parametrize("form", ["x://h/p?{}={}", "x://h/p?a=1&{}={}", "x://h/p%3F{}%3D{}"])
def test_every_secret_key(key: str, form: str) -> None:
    assert "hunter2" not in without_credentials(form.format(key, "hunter2"))


def test_variables_are_put_in() -> None:
    values = {"ME": "viewer", "CAM_1": "p@$s", "EMPTY": ""}
    text = "rtsp://${ME}:${CAM_1}@camera/$1${EMPTY}?a=${1}"
    assert with_variables(text, values) == "rtsp://viewer:p@$s@camera/$1?a=${1}"
    assert has_variables(text)
    assert not has_variables("$ME {ME} ${1}")


def test_a_variable_that_is_not_set_is_named_and_no_other_is_shown() -> None:
    with pytest.raises(InputError, match=r"variable \$\{CAM\} is not set; export CAM=") as caught:
        with_variables("rtsp://me:${ME}@${CAM}/1", {"ME": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("rtsp://me:pw@camera/1", True),
        ("rtsp:me:pw@camera/1", True),
        ("rtsp://c/1?depth=rtsp://me:pw@c/2", True),
        ("web://0.0.0.0:8080?token=abcdefgh", True),
        ("rtsp://me:${PW}x@camera/1", True),
        ("rtsp://me:${PW}@c/1?depth=rtsp://me:pw@c/2", True),
        ("rtsp://c/user=admin_password=pw_channel=1", True),
        ("rtsp://${ME}:${PW}@c/1?depth=rtsp://me:${PW}@c/2", False),
        ("rtsp://${ACCOUNT}@c/1", False),
        ("rtsp://c/user=${ME}_password=${PW}_channel=1", False),
        ("web://0.0.0.0:8080?token=${TOKEN}", False),
        ("${CAMERAS}", False),
        ("realsense://0123", False),
        ("out.mp4", False),
        ("/home/me@work/b", False),
    ],
)
def test_what_shows_a_password(text: str, shows: bool) -> None:
    assert shows_credentials(text) == shows


@pytest.mark.parametrize(
    "uri",
    [
        "video://http://me:hunter2@camera/x.mp4?depth=d.mkv&unit=mm",
        "video://rtsp://me:hunter2@camera/1?depth=rtsp://me:hunter2@camera/2&unit=mm",
        "folder://me:hunter2@camera/set",
        "rosbag://http://me:hunter2@camera/x.mcap",
        "realsense://http%3A%2F%2Fme%3Ahunter2%40camera/x.bag",
    ],
)
def test_an_address_where_a_file_is_meant_is_not_told(uri: str) -> None:
    with pytest.raises(SourceError, match="is not on this machine: .* cameras in a net") as caught:
        open_source(uri)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value)).replace(uri, "")
