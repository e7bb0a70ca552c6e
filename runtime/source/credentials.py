"""Taking credentials out of what is shown: of a URI, or of any text that holds one."""

from __future__ import annotations

import re

HIDDEN = "***"

#: Query keys whose values are secrets.
SECRET_KEYS = (
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "key",
    "pass",
    "passwd",
    "password",
    "psw",
    "pwd",
    "secret",
    "session",
    "sig",
    "signature",
    "token",
    "user",
    "username",
)

# A URI may carry another one in its query, percent-encoded there.
_BEGIN = r"(?:://|%3A%2F%2F)"
_AT = r"(?:@|%40)"
# The last @ before the host.  A password may hold a slash, though it should not; then only what
# begins as user:password is taken for one, so that rtsp://host:554/camera@2 keeps its host.
_PLAIN = rf"(?:(?!{_BEGIN}|%2F)[^\s/'\"?])*{_AT}"
_WITH_SLASH = rf"(?![^\s/:@]*:\d+/)[^\s/:@'\"]+:(?:(?!{_BEGIN})[^\s'\"])*{_AT}"
_USER = re.compile(rf"({_BEGIN})(?:{_WITH_SLASH}|{_PLAIN})", re.IGNORECASE)
_VALUE = re.compile(
    rf"((?:[?&;]|%3F|%26)(?:{'|'.join(SECRET_KEYS)})(?:=|%3D))(?:(?!%26)[^&\s'\"])+",
    re.IGNORECASE,
)


def without_credentials(uri: str) -> str:
    """A URI, or a text with URIs in it, in which nobody can read a user, password or token.

    Args:
        uri: Any text; what holds no credentials comes back as it is.

    Returns:
        The text with ``***`` in place of ``user:password`` and of the values of
        :data:`SECRET_KEYS`; of URIs inside a query, too.

    Example:
        >>> without_credentials("rtsp://me:secret@camera/1?depth=rtsp%3A%2F%2Fme%3As%40camera/2")
        'rtsp://***@camera/1?depth=rtsp%3A%2F%2F***@camera/2'
        >>> without_credentials("http://camera/video?token=abc&size=2")
        'http://camera/video?token=***&size=2'
    """
    shown = _USER.sub(rf"\1{HIDDEN}@", uri)
    return _VALUE.sub(rf"\1{HIDDEN}", shown)
