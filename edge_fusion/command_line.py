"""What every command shares: one way to end, one set of options, one place for JSON."""

from __future__ import annotations

import errno
import math
import os
import sys
import time
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from edge_fusion.dependencies import naming_missing_packages
from edge_fusion.errors import EdgeFusionError, InputError
from edge_fusion.files import check_writable

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
NOTHING_LEFT = "nothing half-written was left"
INTERRUPTED, CLOSED_PIPE, BUG = 130, 141, 70  # as shells and sysexits.h have them
_ONE_WISH_S = 2.0  # signals so close together ask for one thing


class Commands(TyperGroup):
    """The commands, with one place that turns an error into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a deliberate error becomes one message, without a traceback."""
        try:
            return self._invoke(ctx)
        except EdgeFusionError as err:
            if ctx.params.get("debug"):
                traceback.print_exc()
            _complain(f"error: {err}")
            raise typer.Exit(err.exit_code) from err
        except KeyboardInterrupt as err:
            _complain(f"interrupted; {err.args[0] if err.args else NOTHING_LEFT}")
            if err.args:  # threads that do not end are still at work: Python's own end would crash
                os._exit(INTERRUPTED)
            raise typer.Exit(INTERRUPTED) from err
        except BrokenPipeError as err:  # whoever read us has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(CLOSED_PIPE) from err
        except Exception as err:
            if isinstance(err, OSError) and err.errno in _NO_ROOM:
                _complain(f"error: cannot write what there is to say: {err.strerror}")
                raise typer.Exit(EdgeFusionError.exit_code) from err
            if type(err).__module__.partition(".")[0] in ("typer", "click"):
                raise  # its own usage errors and exits
            if ctx.params.get("debug"):
                traceback.print_exc()
            _complain(f"unexpected {type(err).__name__}: {err}; this is a bug: --debug shows where")
            raise typer.Exit(BUG) from err

    def _invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ImportError:
            with naming_missing_packages(ctx.invoked_subcommand):  # known only by now
                raise


class WithOptionalValues(TyperCommand):
    """A command some of whose options may stand without a value: it is given by ``=`` alone.

    An option that took the next word as its value would swallow a sink.
    """

    optional: ClassVar[dict[str, str]] = {"--watch-drift": "auto"}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write out what stands for the value that was left out."""
        for option, value in pairwise(args):
            if option in self.optional and _is_number(value):  # else it would be a sink's name
                raise InputError(f"{option} {value}", cure=f"write {option}={value}")
        written = [f"{arg}={self.optional[arg]}" if arg in self.optional else arg for arg in args]
        return super().parse_args(ctx, written)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _complain(message: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    console.print(message, style="red", markup=False)


def place_for_json(json_to: str | None) -> str | None:
    """Refuse a place that cannot be written to before any work is done."""
    if json_to is not None and json_to != "-":
        _check_place("--json", json_to, "the JSON file", ", or - for standard output")
    return json_to


def place_for_page(html: Path | None) -> Path | None:
    """Refuse a place that cannot be written to before any work is done."""
    if html is not None:
        _check_place("--html", str(html), "the report")
    return html


def _check_place(option: str, text: str, what: str, otherwise: str = "") -> None:
    path = Path(text)
    if not text or path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{option} {text!r}", expected=f"a file in an existing folder{otherwise}")
    check_writable(path, what)


BundlePath = Annotated[Path, typer.Argument(help="A bundle: its folder or its .tar.")]
JsonTo = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the result as JSON; '-' is standard output.",
        callback=place_for_json,
    ),
]
HtmlTo = Annotated[
    Path | None,
    typer.Option("--html", help="Write a one-file HTML report.", callback=place_for_page),
]
TargetName = Annotated[
    str, typer.Option(help="Board and JetPack, such as orin-nano@6.2; see 'targets'.")
]
Backend = Annotated[
    str,
    typer.Option(
        help="auto: this device's engine where there are a GPU and TensorRT, else ONNX Runtime on "
        "the CPU; trt or ort forces one."
    ),
]


class Interrupt:
    """What a signal that asks for the end does: what Ctrl-C does, once.

    Launchers and shells pass on what the terminal has sent already, and people press twice.  The
    second time means that nobody waits for what is being finished, so it counts only some time
    after the first.
    """

    def __init__(self) -> None:
        self._asked_s = -math.inf

    def __call__(self, number: int, frame: object) -> None:
        """Handle a signal."""
        now_s = time.monotonic()
        if now_s - self._asked_s < _ONE_WISH_S:
            return
        self._asked_s = now_s
        raise KeyboardInterrupt
