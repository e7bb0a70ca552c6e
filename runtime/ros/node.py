"""A node of ROS 2 of its own, which comes and goes without touching any other in this process."""

from __future__ import annotations

import array
import os
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node


class OwnNode:
    """A context, a node in it, and an executor that runs its callbacks in the caller's thread.

    Args:
        role: What it does, for its name: letters, digits and underscores.

    Raises:
        RuntimeError: ROS 2 could not be joined.
    """

    def __init__(self, role: str) -> None:
        self._context = Context()
        # A context of its own: no signal handler is installed, no other node is disturbed.
        rclpy.init(context=self._context)
        try:
            self.node: Node = rclpy.create_node(
                f"edge_fusion_{role}_{os.getpid()}",
                context=self._context,
                enable_rosout=False,
                start_parameter_services=False,
            )
            self._executor = SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self.node)
        except BaseException:
            rclpy.try_shutdown(context=self._context)
            raise

    def spin_once(self, timeout_s: float) -> None:
        """Run one callback that is due, or wait for one.

        Raises:
            RuntimeError: ROS 2 was shut down.
        """
        self._executor.spin_once(timeout_sec=timeout_s)

    def close(self) -> None:
        """Leave ROS 2; closing twice is allowed."""
        if not self._context.ok():
            return
        with suppress(RuntimeError):  # it was shut down from outside meanwhile
            self._executor.remove_node(self.node)
            self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def __enter__(self) -> OwnNode:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def fill(message: Any, fields: dict[str, Any]) -> Any:
    """Set the fields of a message of rclpy; returns it.

    Args:
        message: A new message.
        fields: Nested, as :mod:`.fields` makes them.
    """
    for name, value in fields.items():
        if isinstance(value, dict):
            fill(getattr(message, name), value)
        elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
            # Only an array of bytes is taken as it is; from anything else byte by byte.
            setattr(message, name, array.array("B", value.tobytes()))
        else:
            setattr(message, name, value)
    return message
