"""How every script here is run: options by typer, errors of ours as one line."""

from __future__ import annotations

from collections.abc import Callable

import typer

from edge_fusion.errors import EdgeFusionError


def run(main: Callable[..., None]) -> None:
    """Run a script's ``main`` as a command; a deliberate error becomes one line and its status."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except EdgeFusionError as err:
        typer.echo(f"error: {err}", err=True)
        raise SystemExit(err.exit_code) from None
