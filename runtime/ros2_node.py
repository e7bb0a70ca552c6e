r"""A node of ROS 2: RGB-D topics in, saliency out.

::

    python -m edge_fusion.runtime.ros2_node BUNDLE \
        --color /camera/color/image_raw --depth /camera/aligned_depth_to_color/image_raw

It is ``edge-fusion run BUNDLE ros2://... ros2:///saliency`` in the form that a launch file starts;
what stands behind ``--ros-args`` goes to ROS.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from edge_fusion.errors import EdgeFusionError

from .run import RunOptions, run_bundle, run_facts
from .source.keys import flag
from .source.schemes import SCHEMES
from .stream_options import MODES, StreamOptions

_KEYS = SCHEMES["ros2"].all_keys


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it is stopped.

    Args:
        arguments: The command line without the program; None: that of this process.

    Returns:
        The exit status: 0, or that of the error.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        run = run_bundle(node_options(without_ros_arguments(given)), note=_say)
    except EdgeFusionError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    for name, fact in run_facts(run).items():
        _say(f"{name}: {fact}")
    return 0


def without_ros_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without what is meant for ROS: from ``--ros-args`` to ``--`` or the end.

    Example:
        >>> without_ros_arguments(["a", "--ros-args", "-r", "__node:=x", "--", "b"])
        ['a', 'b']
    """
    kept: list[str] = []
    for_ros = False
    for argument in arguments:
        if argument == "--ros-args":
            for_ros = True
        elif for_ros and argument == "--":
            for_ros = False
        elif not for_ros:
            kept.append(argument)
    return kept


def node_options(arguments: Sequence[str]) -> RunOptions:
    """What a command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_fusion.runtime.ros2_node",
        description="RGB-D topics in, saliency out.",
    )
    parser.add_argument("bundle", type=Path, help="folder or .tar of a bundle")
    _add_source_arguments(parser)
    parser.add_argument("--publish", default="/saliency", help="topic of the results (/saliency)")
    parser.add_argument("--sink", action="append", default=[], help="a further sink, any number")
    parser.add_argument("--variant", help="fp32, int8 or fp16")
    parser.add_argument("--backend", default="auto", help="auto, ort or trt")
    parser.add_argument("--limit", type=int, help="stop after this many frames")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="auto",
        help="every pair, or always the freshest (auto: the freshest)",
    )
    parser.add_argument(
        "--max-staleness", type=float, metavar="MS", help="drop pairs that are older than this"
    )
    parser.add_argument(
        "--smooth", type=float, metavar="SHARE", help="of the past in each map, 0 up to 1 (off)"
    )
    args = parser.parse_args(arguments)
    topic = f"/{args.publish.lstrip('/')}"
    return RunOptions(
        bundle=args.bundle,
        source=_source_uri(args),
        sinks=(f"ros2://{topic}", *args.sink),
        variant=args.variant,
        backend=args.backend,
        stream=StreamOptions(
            limit=args.limit,
            mode=args.mode,
            max_staleness_ms=args.max_staleness,
            smoothing=args.smooth,
        ),
    )


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Whatever ``ros2://`` takes, with dashes for underscores."""
    for name, key in _KEYS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            required=name in ("color", "depth"),
            metavar=key.form,
            help=key.meaning.replace("%", "%%"),
            # What is a yes or no need not be told its yes.
            **({"nargs": "?", "const": "1"} if key.parse is flag else {}),
        )


def _source_uri(args: argparse.Namespace) -> str:
    given = {name: getattr(args, name) for name in _KEYS if getattr(args, name) is not None}
    return "ros2://?" + "&".join(f"{name}={quote(text, safe='/')}" for name, text in given.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
