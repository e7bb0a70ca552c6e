"""What may be shown to anybody: texts with and without users, hosts and folders."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import pytest

from edge_fusion.runtime.redact import Private, private_here, redact

JOHN = Private(
    kept=("/mnt/my disk/bundle",),
    hidden=("/media/john doe", "/data/set, old"),
    homes=("/srv/john",),
    names={"nano-lab.example": "host", "nano-lab": "host", "john": "user"},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # of a path the last part stays
        ("cannot read /home/ann/sets/a.png", "cannot read a.png"),
        ("cannot read '/home/ann/a.png': no", "cannot read 'a.png': no"),
        ("folder:///home/ann/set?limit=3", "folder://set?limit=3"),
        ("folder:///a/b?gt=/home/ann/gt", "folder://b?gt=gt"),
        ("/a/b/", "b/"),
        # blanks in folders, known and unknown
        ("/media/john doe/sets/a.png", "a.png"),
        ("/run/media/ann doe/my disk/a.png is empty", "a.png is empty"),
        ("cannot copy /a/b to /c/d", "cannot copy b to d"),
        ("/data/set, old/a.png", "a.png"),
        # a bundle keeps what is in it
        ("cannot read /mnt/my disk/bundle/engines/x", "cannot read bundle/engines/x"),
        ("/mnt/my disk/bundle is damaged", "bundle is damaged"),
        ("/mnt/my disk/bundles/x", "x"),
        # a user's own folder
        ("/home/john", "~"),
        ("/home/ann is full", "~ is full"),
        ("folder:///home/john", "folder://~"),
        ("/srv/john", "~"),
        ("/srv/john/sets/a.png", "a.png"),
        ("~/sets/a.png", "a.png"),
        ("/mnt/srv/john", "user"),
        # users and hosts
        ("ssh://john@nano-lab/x", "ssh://user@host/x"),
        ("rtsp://ann:secret@10.0.0.7:554/x", "rtsp://user@host:554/x"),
        ("host nano-lab.example, NANO-LAB", "host host, host"),
        ("sets_of_john, john's, johnson", "sets_of_user, user's, johnson"),
        # what is no path and no name
        ("15W/25W at 102 GB/s, 3/4", "15W/25W at 102 GB/s, 3/4"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("demo://?frames=8&size=640x480", "demo://?frames=8&size=640x480"),
        ("engines/x/model.plan", "engines/x/model.plan"),
        ("orin-nano@6.2", "orin-nano@6.2"),
        ("../x and ./y", "../x and ./y"),
        ("", ""),
    ],
)
def test_of_paths_the_last_part_stays_and_of_people_nothing(text: str, expected: str) -> None:
    assert redact({"a": [text, 1, None]}, JOHN) == {"a": [expected, 1, None]}


def test_what_is_private_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/data/people/ann")
    monkeypatch.setenv("SUDO_USER", "bob")
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    monkeypatch.setattr(socket, "gethostname", lambda: "lab7.example.org")
    monkeypatch.chdir(tmp_path)
    private = private_here([Path("out/bundle")], [Path("/media/ann"), Path("set")])
    assert private.names == {
        "lab7.example.org": "host",
        "lab7": "host",
        "ann": "user",
        "bob": "user",
    }  # root is nobody's name
    assert set(private.kept) == {"out/bundle", f"{tmp_path}/out/bundle"}
    assert {"/media/ann", f"{tmp_path}/set", str(tmp_path)} <= set(private.hidden)
    text = f"bob wrote {tmp_path}/out/bundle/x from /data/people/ann on lab7"
    assert redact(text, private) == "user wrote bundle/x from ~ on host"


def test_a_user_without_an_account_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.setenv("HOME", "/")
    monkeypatch.delenv("SUDO_USER", raising=False)
    private = private_here([], [])
    assert (private.names, private.homes) == ({}, ())
    assert redact("https://a/b", private) == "https://a/b"
