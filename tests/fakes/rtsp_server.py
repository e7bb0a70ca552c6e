"""An RTSP server with a colour and a relative depth stream, for tests of RTSP cameras.

Runs under the system's Python, which has GStreamer; it prints its port, then ``ready``.
"""

from __future__ import annotations

import sys
from typing import Any

import gi  # type: ignore[import-untyped]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-untyped]  # noqa: E402

STREAMS = {"/color": ("smpte", "I420"), "/depth": ("gradient", "GRAY8"), "/small": ("ball", "I420")}
PIPELINE = (
    "( videotestsrc is-live=1 pattern={pattern} ! "
    "video/x-raw,format={format},width={width},height=120,framerate=30/1 ! videoconvert ! "
    "video/x-raw,format=I420 ! jpegenc ! rtpjpegpay name=pay0 pt=96 )"
)


def factory(pattern: str, pixels: str, width: int) -> Any:
    """One stream, shared by its clients, for those who have the role."""
    made = GstRtspServer.RTSPMediaFactory.new()
    made.set_launch(PIPELINE.format(pattern=pattern, format=pixels, width=width))
    made.set_shared(True)
    permissions = GstRtspServer.RTSPPermissions.new()
    for what in ("access", "construct"):
        permissions.add_permission_for_role("viewer", f"media.factory.{what}", True)
    made.set_permissions(permissions)
    return made


def main(port: str, user: str = "", password: str = "") -> None:
    """Serve until killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    auth = GstRtspServer.RTSPAuth.new()
    token = GstRtspServer.RTSPToken.new()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    if user:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    else:
        auth.set_default_token(token)
    server.set_auth(auth)
    for path, (pattern, pixels) in STREAMS.items():
        width = 80 if path == "/small" else 160
        server.get_mount_points().add_factory(path, factory(pattern, pixels, width))
    server.attach(None)
    print(server.get_bound_port(), "ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
