"""Taking credentials out of what is shown: of a URI, or of any text that holds one.

And putting them in from the environment, so that no command line has to hold them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edge_fusion.errors import InputError

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
# The last @ before the host.  A password may hold anything, though it should be encoded; but with a
# slash in it only what begins as user:password is taken for one, so that rtsp://host:554/camera@2
# keeps its host.
_PLAIN = rf"(?:(?!{_BEGIN}|%2F)[^/?\n])*{_AT}"
_WITH_SLASH = rf"(?![^\s/:@]*:\d+/)(?:(?!{_BEGIN})[^/:@\n])+:(?!//)(?:(?!{_BEGIN})[^\n])*{_AT}"
_USER = re.compile(rf"({_BEGIN})(?:{_WITH_SLASH}|{_PLAIN})", re.IGNORECASE)
# In a path, too, as recorders have it: /user=me_password=secret_channel=1.
_KEY = rf"(?:[?&;/_]|%3F|%26|%2F)(?:{'|'.join(SECRET_KEYS)})(?:=|%3D)"
# In a sentence a value ends where a quoted URI does; in a URI alone nothing but & ends it.
_VALUE = re.compile(rf"({_KEY})(?:(?!%26|{_KEY})[^&\s'\"])+", re.IGNORECASE)
_VALUE_ALONE = re.compile(rf"({_KEY})(?:(?!%26|{_KEY})[^&])+", re.IGNORECASE)
_ALONE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HIDDEN_VALUE = re.compile(rf"{_KEY}{_VARIABLE.pattern}", re.IGNORECASE)
_NO_PASSWORD = re.compile(rf"({_BEGIN})(?:[^/:@\s]*:)?{_AT}", re.IGNORECASE)
_PASSWORD = re.compile(r":[^/@\s]+@")  # also where the scheme was mistyped


def without_credentials(uri: str) -> str:
    """A URI, or a text with URIs in it, in which nobody can read a user, password or token.

    Where it is not clear what a password is, more is hidden than would be needed.

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
    value = _VALUE_ALONE if _ALONE.match(uri) else _VALUE
    return value.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", uri))


def has_variables(text: str) -> bool:
    """Whether a text names variables as ``${NAME}``."""
    return _VARIABLE.search(text) is not None


def with_variables(text: str, variables: Mapping[str, str]) -> str:
    """A text with the values of variables in place of ``${NAME}``.

    Args:
        text: Any text; a dollar without braces means itself.
        variables: Values by name.

    Raises:
        InputError: One is not set.

    Example:
        >>> with_variables("rtsp://me:${CAM}@camera/1", {"CAM": "secret"})
        'rtsp://me:secret@camera/1'
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in variables:
            raise InputError(
                f"the variable ${{{name}}} is not set",
                cure=f"export {name}=..., or write it into the EnvironmentFile of the service",
            )
        return variables[name]

    return _VARIABLE.sub(value, text)


def shows_credentials(text: str) -> bool:
    """Whether a password or token can be read in a text; in ``${NAME}`` none can.

    Example:
        >>> shows_credentials("rtsp://me:secret@camera"), shows_credentials("rtsp://me:${CAM}@camera")
        (True, False)
    """
    bare = _VARIABLE.sub("", _HIDDEN_VALUE.sub("", text))
    bare = _NO_PASSWORD.sub(r"\1", bare)
    return without_credentials(bare) != bare or _PASSWORD.search(bare) is not None
