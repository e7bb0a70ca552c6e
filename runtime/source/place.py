"""Where a source lies on this machine, as its user wrote it."""

from __future__ import annotations

from pathlib import Path

from edge_fusion.errors import SourceError


def local_path(written: str | Path) -> Path:
    """A path with ``~`` as a home.

    Args:
        written: As the user wrote it; nothing need be there.

    Raises:
        SourceError: There is no such home, this user may not look there, or no file can have such
            a name.

    Example:
        >>> local_path("captures/desk").name
        'desk'
    """
    try:
        path = Path(written).expanduser()
        path.exists()
    except RuntimeError as err:  # so it calls a user that it does not know
        raise SourceError(
            f"'{written}' begins with a home that does not exist", cure="write the whole path"
        ) from err
    except OSError as err:
        raise SourceError(f"cannot look for '{written}'", got=err.strerror or str(err)) from err
    return path


def is_there(written: str | Path) -> bool:
    """Whether there is a file or folder of that path that can be seen.

    Example:
        >>> is_there("/"), is_there("~nobody-of-that-name/set")
        (True, False)
    """
    try:
        return local_path(written).exists()
    except SourceError:
        return False
