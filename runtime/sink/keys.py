"""What may stand behind the question mark of a destination.

Kept apart from the sinks themselves, so that every option can be listed where a sink's own package
is not installed.
"""

from __future__ import annotations

import re

from ..ros.fields import FRAME_ID
from ..source.keys import Key, filled, one_of

_SHORTEST_TOKEN = 8


def token(text: str) -> str:
    """A token as it is; ``ValueError`` where it is too short or would not survive in an address."""
    if not re.fullmatch(rf"[A-Za-z0-9_.~-]{{{_SHORTEST_TOKEN},128}}", text):
        raise ValueError("not a token")
    return text


WEB_KEYS: dict[str, Key] = {
    "token": Key(token, "SECRET", f"what to ask of clients: {_SHORTEST_TOKEN} or more of A-Z 0-9"),
    "fps": Key(float, "RATE", "pictures per second at most (default 15)"),
    "clients": Key(int, "COUNT", "how many may look at a time (default 16)"),
    "stalled_s": Key(float, "SECONDS", "without a frame until /healthz says 503 (default 5)"),
}

RERUN_KEYS: dict[str, Key] = {
    "rate": Key(float, "HZ", "results per second at most (default 10; a file gets every one)"),
    "memory": Key(filled, "SIZE", "what is kept for viewers that come late (default 256MiB)"),
}

ROS2_KEYS: dict[str, Key] = {
    "encoding": Key(
        one_of({"mono8": "mono8", "32FC1": "32FC1"}), "mono8|32FC1", "0..255, or 0..1 (mono8)"
    ),
    "frame_id": Key(filled, "NAME", f"coordinate frame of the results ({FRAME_ID})"),
}
