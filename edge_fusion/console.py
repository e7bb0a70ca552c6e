"""What the command line shows: progress on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import math
import select
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from edge_fusion.files import write_bytes

STANDARD_OUTPUT = "-"
WHOLE_WORDS = 50  # characters a cell may have and still stand on one line
PIPED_WIDTH = 160  # columns where nobody tells us how wide the paper is


class _Paper(Console):
    """A console whose broken pipe is an error as every other: the command line knows what to do."""

    def on_broken_pipe(self) -> None:
        """Called while that error is handled."""
        raise


def console_for(json_to: str | None) -> Console:
    """The console for people: standard error where standard output carries the JSON."""
    # The stream is taken now: libraries that are silenced by redirecting it must not silence us.
    stream = sys.stderr if json_to == STANDARD_OUTPUT else sys.stdout
    console = _Paper(file=stream, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def emit_json(json_to: str | None, content: Mapping[str, Any] | list[Any]) -> None:
    """Write ``content`` to a file or, for ``-``, to standard output; nothing for None.

    Raises:
        OutputError: The file could not be written.
    """
    if json_to is None:
        return
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    if json_to == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_bytes(Path(json_to), text.encode(), "the JSON file")


def facts_table(facts: Mapping[str, str]) -> Table:
    """Names and values, one pair a line."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(f"[bold]{name}", Text(value))
    return table


def grid(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table: numbers to the right, words to the left, names never cut."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    listed = [[str(cell) for cell in row] for row in rows]
    for index, name in enumerate(columns):
        numeric = all(row[index][:1].isdigit() or row[index] in ("", "-") for row in listed)
        widest = max((len(row[index]) for row in listed), default=0)
        table.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=widest <= WHOLE_WORDS,
            overflow="fold",
        )
    for row in listed:
        table.add_row(*map(Text, row))
    return table


class FrameLine:
    """One line that lives: frames, rate and latency while a stream runs.

    On a terminal it is redrawn ten times a second, elsewhere a plain line comes every few seconds.
    """

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._console = console
        self._interval = 0.1 if console.is_terminal else 2.0
        self._shown = time.monotonic()
        self.more = ""  # what else there is to show with every figure

    def __enter__(self) -> FrameLine:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __call__(self, number: int, fps: float, latency_ms: float, dropped: int) -> None:
        """Show the newest figures, unless others were shown a moment ago."""
        if time.monotonic() - self._shown < self._interval:
            return
        self._shown = time.monotonic()
        figures = f"frame {number}  {fps:.1f} fps  latency {latency_ms:.1f} ms  dropped {dropped}"
        self._say(f"{figures}  {self.more}" if self.more else figures)

    def note(self, text: str) -> None:
        """Say something that stays."""
        self._say(text, stays=True)

    def _say(self, line: str, *, stays: bool = False) -> None:
        """Show a line; where nobody listens any more, or not now, the stream goes on without."""
        try:
            if not _has_room(self._console):
                return
            if self._console.is_terminal and not stays:
                self._live.update(Text(line), refresh=True)
            else:
                self._console.print(line, markup=False)
        except OSError:
            self._interval = math.inf


def _has_room(console: Console) -> bool:
    """Whether a line can be written without waiting for whoever reads us.

    A pipe that nobody reads is full after some minutes, and a terminal takes nothing after Ctrl-S.
    """
    try:
        descriptor = console.file.fileno()
    except (OSError, ValueError):  # kept in memory, or closed: writing says so
        return True
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    return bool(waiting.poll(0))


class Steps:
    """Named steps with a count: bars on a terminal, one plain line per finished step elsewhere.

    Use as a context manager and call with ``(step, done, total)``; ``total`` 0 means unknown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Steps:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Show that ``done`` of ``total`` parts of ``step`` are finished."""
        if not self._console.is_terminal:
            if total and done == total:
                self._console.print(f"{step:<10} {detail or f'{total} of {total}'}", markup=False)
            return
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(f"{step:<10}", total=total or None, detail="")
        self._bars.update(self._tasks[step], completed=done, total=total or None, detail=detail)

    def named(self, done: int, total: int, step: str) -> None:
        """The same, for callers that say the step last."""
        self(step, done, total)
