from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_fusion.bundle import Bundle
from edge_fusion.errors import EngineError, InputError
from edge_fusion.export import remote
from edge_fusion.export.remote import RemoteOptions, build_remote
from edge_fusion.export.remote_files import Device, upload
from edge_fusion.export.remote_link import (
    Link,
    LinkLostError,
    Patience,
    RemoteError,
    SshHost,
    parse_host,
    plain,
)
from edge_fusion.export.remote_probe import DeviceFacts, Wish, check_fit, check_room, probe
from tests.export.device_bundles import device_facts as facts
from tests.export.device_bundles import with_flavours
from tests.export.far_side import FarSide, far_side

LINK = Link(SshHost("orin.local", "ubuntu", 2222))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarSide]:
    with far_side(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("ssh://ubuntu@orin.local", SshHost("orin.local", "ubuntu")),
        ("ssh://orin/", SshHost("orin")),
        ("ssh://u@192.168.1.2:2222", SshHost("192.168.1.2", "u", 2222)),
        ("ssh://u@[fe80::1]:22", SshHost("fe80::1", "u", 22)),
    ],
)
def test_addresses(text: str, host: SshHost) -> None:
    assert parse_host(text) == host
    assert str(host) == text.rstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orin.local",
        "ubuntu@orin.local",
        "ssh://",
        "ssh://-oProxyCommand=id",  # would be an option of ssh
        "ssh://-u@orin",
        "ssh://u@-orin",
        "ssh://u@orin nano",
        "ssh://u@orin\n",
        "ssh://u@orin;id",
        "ssh://u:password@orin",
        "ssh://u@orin:0",
        "ssh://u@orin:65536",
        "ssh://u@orin/path",
        "ssh://u@orin:22:22",
        "ssh://ü@orin",
        "sftp://u@orin",
    ],
)
def test_hostile_and_foreign_addresses(text: str) -> None:
    with pytest.raises(InputError, match="the device's address: expected ssh://user@host"):
        parse_host(text)


def test_names_for_each_program() -> None:
    host = SshHost("fe80::1", "u", 2222)
    assert (host.at(host.copy_name), host.known_name) == ("u@[fe80::1]", "[fe80::1]:2222")
    assert SshHost("orin", port=22).known_name == "orin"


def test_keys_alone_and_known_hosts_alone() -> None:
    options = LINK.options()
    for setting in (
        "BatchMode=yes",
        "PasswordAuthentication=no",
        "StrictHostKeyChecking=yes",
        "ForwardAgent=no",
        "Port=2222",
    ):
        assert f"-o{setting}" in options
    assert any(option.startswith("-oConnectTimeout=") for option in options)


@pytest.mark.parametrize(
    ("status", "said", "kind", "message"),
    [
        (255, "ssh: Could not resolve hostname orin: Name", RemoteError, "has no address: got ssh"),
        (255, "u@h: Permission denied (publickey).", RemoteError, "ssh-copy-id -p 2222 ubuntu@"),
        (255, "connect to host h port 22: No route to host", LinkLostError, "cannot be reached"),
        (255, "client_loop: send disconnect: Broken pipe", LinkLostError, "broke while trying"),
        (255, "", LinkLostError, "broke while trying: got exit status 255; run the same command"),
        (-9, "", LinkLostError, "got exit status -9"),
        (12, "rsync error: error in rsync protocol data stream", LinkLostError, "broke while"),
        (
            11,
            "rsync: write failed: No space left on device (28)",
            RemoteError,
            "disk of .* is full",
        ),
        (
            1,
            "sh: 1: nonsense: not found\n\n",
            RemoteError,
            "trying failed on .*nonsense: not found",
        ),
        (1, "\x1b]0;title\x07bad", RemoteError, "got ]0;titlebad"),
    ],
)
def test_what_openssh_says_and_what_it_means(
    status: int, said: str, kind: type[RemoteError], message: str
) -> None:
    with pytest.raises(RemoteError, match=message) as caught:
        LINK.check(status, said.encode(), "trying")
    assert type(caught.value) is kind


def test_patience_has_an_end_and_starts_anew_after_a_success() -> None:
    told: list[str] = []
    patience = Patience(1.5, told.append)
    calls = iter([True, False, True, False])  # lost, fine, lost, fine: one second each

    def action() -> str:
        if next(calls):
            raise LinkLostError("the link broke")
        return "done"

    assert [patience.insist(action), patience.insist(action)] == ["done", "done"]
    assert told == ["the link broke; trying again in 1 s"] * 2
    start = time.monotonic()
    with pytest.raises(LinkLostError, match="gone for good"):
        Patience(0, told.append).insist(lambda: _lose())
    assert time.monotonic() - start < 0.5


def _lose() -> None:
    raise LinkLostError("gone for good")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m\ttab\n", "red\ttab\n"),
        ("a\r\x08\x00b", "ab"),
        ("\u202eabc", "abc"),  # would turn the rest of the line around
    ],
)
def test_text_from_a_device_steers_no_terminal(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.fixture
def wish(tiny_bundle: Bundle, tmp_path: Path) -> Wish:
    return Wish(with_flavours(tiny_bundle, tmp_path / "flavoured"), "int8", 100 << 20)


JETPACK_5 = {"release": "# R35 (release), REVISION: 4.1", "python": "3.8.10", "tensorrt": "8.5.2.2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            JETPACK_5,
            "runs L4T 35.4.1.*expected JetPack 6 or newer, got Python 3.8.10; copy the bundle "
            "there and run in its folder: /usr/src/tensorrt/bin/trtexec --onnx=model.weak.int8.",
        ),
        ({"release": "R32 (release), REVISION: 7.1"}, "runs L4T 32.7.1"),
        ({"architecture": "armv7l"}, "expected aarch64 or x86_64, got armv7l"),
        ({"python": "3.9.2"}, "too old: expected Python 3.10 or newer, got 3.9.2; .*--python"),
        (
            {"tensorrt": None, "tensorrt_problem": "ImportError: libnvinfer.so.10"},
            "not installed for the Python 3.10.12.*got ImportError: libnv.*apt install nvidia-jet",
        ),
        ({"tensorrt": None, "release": "", "architecture": "x86_64"}, "pip install tensorrt"),
        ({"venv": False}, "cannot make virtual environments; .*apt install python3-venv"),
    ],
)
def test_a_device_that_cannot_build_says_what_it_lacks(
    wish: Wish, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(RemoteError, match=message):
        check_fit(LINK, facts(**changes), wish)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tensorrt": "8.6.2.3", "release": "# R36 (release), REVISION: 3.0"},  # JetPack 6.0
        {"tensorrt": "10.13.3.9", "python": "3.12.3", "release": "# R38 (release), REVISION: 4.0"},
        {"tensorrt": "11.4.0.106", "release": "", "architecture": "x86_64", "python": "3.13.1"},
    ],
)
def test_a_device_that_can(wish: Wish, changes: dict[str, object]) -> None:
    check_fit(LINK, facts(**changes), wish)


def test_the_graph_for_the_devices_tensorrt_is_missed_before_copying(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    strong = Wish(with_flavours(tiny_bundle, tmp_path / "s", ("strong.int8",)), "int8", 1)
    check_fit(LINK, facts(), strong)
    with pytest.raises(EngineError, match="expected weak.int8"):
        check_fit(LINK, facts(tensorrt="8.6.2"), strong)
    with pytest.raises(RemoteError, match="trtexec can build there, but .*expected weak.int8"):
        check_fit(LINK, facts(**JETPACK_5), strong)


def test_room(wish: Wish) -> None:
    check_room(LINK, facts(free_bytes=800 << 20), wish)
    with pytest.raises(RemoteError, match="expected 800 MiB free, got 600 MiB; .*--directory"):
        check_room(LINK, facts(free_bytes=600 << 20), wish)
    check_room(LINK, facts(free_bytes=600 << 20, installed=True), wish)
    with pytest.raises(RemoteError, match="may not be written; .*--directory"):
        check_room(LINK, facts(writable=False), wish)


@pytest.mark.parametrize(
    ("stored", "mode"),
    [("pmode:0002 fmode:fanNull", 2), ("pmode:0010\n", 10), ("", None), ("\ufffd garbled", None)],
)
def test_the_power_mode(stored: str, mode: int | None) -> None:
    assert facts(nvpmodel=stored).power_mode == mode


def test_the_systems_opencv_is_not_shadowed() -> None:
    assert facts().extras == ""
    assert facts(cv2=False).extras == "[opencv]"


def test_what_jetpack_6_brings_is_built_for_numpy_1() -> None:
    assert facts().requirements == ("numpy>=1.26,<2",)
    assert facts(release="# R38 (release), REVISION: 4.0").requirements == ()
    assert facts(release="").requirements == ()


@pytest.fixture
def device(server: FarSide, tmp_path: Path) -> Device:
    link = Link(parse_host(server.url), server.config(tmp_path))
    return Device(link, probe(link, sys.executable, str(tmp_path / "far side")), sys.executable)


def test_the_probe_tells_what_is_there(device: Device, tmp_path: Path) -> None:
    found = device.facts
    assert found.root == str(tmp_path / "far side")
    assert found.python == sys.version.split()[0]
    assert found.free_bytes > 0
    assert found.writable
    assert found.rsync == (shutil.which("rsync") is not None)
    assert not found.installed
    here = "{}.{}".format(*sys.version_info)
    for folder, installed in (("venv", False), ("venv-3.6", False), (f"venv-{here}", True)):
        (tmp_path / "far side" / folder).mkdir(parents=True)
        (tmp_path / "far side" / folder / "edge-fusion.installed").touch()
        again = probe(device.link, sys.executable, str(tmp_path / "far side"))
        assert again.installed is installed
    assert found.environment == f"venv-{here}"


def test_a_folder_below_the_home_folder(
    server: FarSide, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    """Only a shell knows what ``~`` is: there it would become a folder of that name."""
    options = RemoteOptions(
        server.url,
        directory="~/no such folder/edge",
        python=sys.executable,
        ssh_config=server.config(tmp_path),
        remote_command=("true",),
    )
    roots: list[str] = []

    def stop(link: Link, found: DeviceFacts, wish: Wish) -> None:
        roots.append(found.root)
        raise RemoteError("seen enough")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remote, "check_room", stop)
        with pytest.raises(RemoteError, match="seen enough"):
            build_remote(tiny_bundle.path, options)
    assert roots == [str(Path.home() / "no such folder" / "edge")]


@pytest.mark.parametrize("program", ["rsync", "sftp"])
@pytest.mark.parametrize(
    "there",
    [
        b"",  # nothing arrived
        b"x" * 60_000,  # the link broke within the file
        b"y" * 60_000,  # something else lies there, and going on from it would not do
        b"y" * 100_000,  # of the same length
        b"y" * 200_000,  # and longer
    ],
)
def test_copying_goes_on_and_ends_with_what_was_sent(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, there: bytes
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    if program == "sftp":
        (tmp_path / "programs").mkdir()
        for name in ("ssh", "sftp"):
            (tmp_path / "programs" / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    stage, data = tmp_path / "stage", b"x" * 100_000
    for name in ("bundles/a/model.onnx", "wheels/b+1.whl"):
        (stage / name).parent.mkdir(parents=True)
        (stage / name).write_bytes(data)
    far = tmp_path / "far side" / "bundles" / "a" / "model.onnx"
    far.parent.mkdir(parents=True)
    far.write_bytes(there)
    names = ("bundles/a/model.onnx", "wheels/b+1.whl")
    reports: list[tuple[int, int, str]] = []
    report = lambda *step: reports.append(step)  # noqa: E731
    assert upload(device, stage, names, Patience(0, print), report) == names
    assert far.read_bytes() == data
    assert reports[0] == (0, 2, "2 files, 0.2 MB")
    assert upload(device, stage, names, Patience(0, print), report) == ()


def test_a_link_in_the_place_of_a_file_is_not_followed(device: Device, tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "file").write_text("ours")
    (tmp_path / "precious").write_text("theirs")
    (tmp_path / "far side").mkdir()
    (tmp_path / "far side" / "file").symlink_to(tmp_path / "precious")
    with pytest.raises(RemoteError, match="far side/file is no plain file"):
        upload(device, stage, ("file",), Patience(0, print), lambda *_: None)
    assert (tmp_path / "precious").read_text() == "theirs"


def test_a_login_script_that_talks(device: Device, tmp_path: Path) -> None:
    """What a shell prints before our own answer is passed over."""
    noisy = tmp_path / "noisy"
    noisy.write_text(f"#!/bin/sh\necho 'Welcome to Ubuntu'\nexec {sys.executable} \"$@\"\n")
    noisy.chmod(0o755)
    assert probe(device.link, str(noisy), "x").python == sys.version.split()[0]
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexit 0\n")
    mute.chmod(0o755)
    with pytest.raises(RemoteError, match="probing failed.*an answer without JSON"):
        probe(device.link, str(mute), "x")
