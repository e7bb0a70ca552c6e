"""A live page for the browser: overlay, depth, saliency and figures, without any package.

::

    write() ── newest result ──> Stage ── drawn when asked for ──> one thread for each client
            └─ counts, times ──> Numbers ──────────────────────┘

Writing only puts a reference on the stage: whatever clients do, it costs the stream nothing.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import ipaddress
import math
import re
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_fusion.errors import OutputError
from edge_fusion.frame import RgbdFrame

from ..ledger import FrameRecord
from .base import on_standard_error
from .destination import bracketed, read_address, read_destination
from .keys import WEB_KEYS, token
from .web_numbers import Numbers
from .web_server import SPARE_CONNECTIONS, Server, Site
from .web_views import Stage

if TYPE_CHECKING:
    from ..telemetry import MachineSample

FORM = "web://[HOST][:PORT]"

_LOCAL_HOST, _PORT = "127.0.0.1", 8080
_ACCEPT_POLL_S = 0.05
_CLOSE_WITHIN_S = 0.3


@dataclass(frozen=True, slots=True)
class WebOptions:
    """How the page is served.

    Attributes:
        host: Address or name to listen on; ``0.0.0.0`` is every network of this machine.
        port: Port to listen on; 0 takes any free one.
        token: What a client has to know; where it is empty and others than this machine can
            connect, one is made.
        fps: Pictures per second at most.
        clients: How many may look at a time.
        stalled_s: Seconds without a frame, be it the first one, after which ``/healthz`` answers
            503.

    Raises:
        OutputError: A value is out of range, or the token is no token.
    """

    host: str = _LOCAL_HOST
    port: int = _PORT
    token: str = field(default="", repr=False)
    fps: float = 15.0
    clients: int = 16
    stalled_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("fps", "clients", "stalled_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OutputError(f"web page: {name}", expected="above 0", got=f"{value:g}")
        if self.token:
            token(self.token)


class WebSink:
    """Serves the newest result as a page, as pictures and as figures.

    Args:
        options: How to serve.
        machine: Gives the newest sample of the machine, or None; must return at once.
        drops: Gives the dropped frames by reason; must return at once.
        about: What runs here, for the page: model, backend, source.
        drift: Gives the newest judgement of the inputs, or None; must return at once.

    Raises:
        OutputError: The port is taken, the host unknown, or listening is not permitted.
    """

    def __init__(
        self,
        options: WebOptions,
        machine: Callable[[], MachineSample | None] | None = None,
        drops: Callable[[], Mapping[str, int]] | None = None,
        about: Mapping[str, str] | None = None,
        drift: Callable[[], Mapping[str, Any] | None] | None = None,
    ) -> None:
        numeric = _resolve(options.host)
        local = ipaddress.ip_address(numeric.partition("%")[0]).is_loopback
        self._host = options.host
        self._token = options.token or ("" if local else secrets.token_urlsafe(16))
        self._stage = Stage(options.fps, options.clients)
        self._numbers = Numbers(options.stalled_s, machine, drops, drift)
        page, policy = _page()
        site = Site(
            stage=self._stage,
            numbers=self._numbers,
            page=page,
            policy=policy,
            about=dict(about or {}),
            token=self._token,
            local_only=local,
        )
        self._server = _listen((numeric, options.port), site, options)
        self.port: int = self._server.server_address[1]
        self._thread: threading.Thread | None = threading.Thread(
            target=self._server.serve_forever,
            args=(_ACCEPT_POLL_S,),
            name="edge-fusion-web",
            daemon=True,
        )
        self._thread.start()

    @property
    def destination(self) -> str:
        """Where it listens, without the token."""
        return f"web://{bracketed(self._host)}:{self.port}"

    @property
    def address(self) -> str:
        """What to open in a browser; holds the token."""
        host = _address_for_others(self._host)
        query = f"?token={self._token}" if self._token else ""
        return f"http://{bracketed(host)}:{self.port}/{query}"

    def write(self, frame: RgbdFrame, saliency: NDArray[np.float32], record: FrameRecord) -> None:
        """Show one result; takes microseconds, and keeps the newest result alone."""
        self._numbers.add(record, (frame.rgb.shape[1], frame.rgb.shape[0]))
        self._stage.show(frame, saliency)

    def stop(self) -> None:
        """Tell whoever looks that it is over; they leave by themselves."""
        self._numbers.stop()
        self._stage.close()

    def close(self) -> None:
        """Free the port and end every connection, within half a second."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self.stop()
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up(_CLOSE_WITHIN_S)
        thread.join(_ACCEPT_POLL_S)


def open_web(
    destination: str,
    *,
    machine: Callable[[], MachineSample | None] | None = None,
    drops: Callable[[], Mapping[str, int]] | None = None,
    about: Mapping[str, str] | None = None,
    drift: Callable[[], Mapping[str, Any] | None] | None = None,
    note: Callable[[str], None] | None = None,
) -> WebSink:
    """Open a live page and tell where it is.

    Args:
        destination: ``web://[HOST][:PORT]``, and of :data:`.keys.WEB_KEYS` what is wanted.
            Without a host only this machine can look; with one that others can reach, a token is
            required and made where none is given.
        machine: See :class:`WebSink`.
        drops: See :class:`WebSink`.
        about: See :class:`WebSink`.
        drift: See :class:`WebSink`.
        note: Takes the line with the address, which holds the token; standard error by default.

    Raises:
        OutputError: The destination is not of that form, or it cannot listen there.

    Example:
        >>> sink = open_web("web://:0", note=lambda line: None)
        >>> sink.destination.rpartition(":")[0]
        'web://127.0.0.1'
        >>> sink.close()
    """
    place, values = read_destination(destination, "web", WEB_KEYS)
    host, port = read_address(place, _LOCAL_HOST, _PORT, FORM)
    sink = WebSink(WebOptions(host, port, **values), machine, drops, about, drift)
    (note or on_standard_error)(f"live page: {sink.address}")
    return sink


def _resolve(host: str) -> str:
    """A host's first address, numeric."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as err:
        raise OutputError(
            f"web page: the host '{host}' is unknown",
            got=str(err),
            cure="web://:8080 serves this machine alone, web://0.0.0.0:8080 all its networks",
        ) from err
    return str(found[0][4][0])


_CURES = {
    errno.EADDRINUSE: "end the program that has it, or take another port: {another}",
    errno.EACCES: "ports below 1024 belong to root: take {another}",
    errno.EPERM: "this user may not listen there: take {another}",
    errno.EADDRNOTAVAIL: "that is no address of this machine: name one of its own, or 0.0.0.0 "
    "for all of them",
}


def _listen(address: tuple[str, int], site: Site, options: WebOptions) -> Server:
    try:
        return Server(address, site, options.clients + SPARE_CONNECTIONS)
    except OSError as err:
        free = options.port + 1 if 1024 <= options.port < 65535 else _PORT
        another = f"{FORM.partition('[')[0]}{bracketed(options.host)}:{free}"
        raise OutputError(
            f"web page: cannot listen on port {options.port} of '{options.host}'",
            got=err.strerror or str(err),
            cure=_CURES.get(err.errno or 0, "take another: {another}").format(another=another),
        ) from err


def _address_for_others(host: str) -> str:
    """A host as somebody else would have to write it: every network becomes the first of ours."""
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which way would be taken
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


@lru_cache(maxsize=1)
def _page() -> tuple[bytes, str]:
    """The page and the policy under which a browser runs it: its own script and style, no other."""
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    sources = {
        kind: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"
            for block in re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        )
        for kind in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text.encode(), policy
