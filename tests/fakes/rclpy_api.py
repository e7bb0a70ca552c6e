"""An ``rclpy`` with the part of its API that is used here, and stricter than the real one.

Signatures, keyword-only arguments included, are those of Humble and later.  A node, executor or
publisher of a context that was shut down raises; a message takes a field only with a value that the
generated setters take without converting it element by element; a queue keeps as many messages as
its quality of service says.  Whatever is still open at the end is an AssertionError.

Messages come from a script: each time an executor finds nothing to do, the next step is delivered.
"""

from __future__ import annotations

import array
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)

_FIELDS: dict[str, dict[str, Any]] = {
    "builtin_interfaces/msg/Time": {"sec": int, "nanosec": int},
    "std_msgs/msg/Header": {"stamp": "builtin_interfaces/msg/Time", "frame_id": str},
    "std_msgs/msg/String": {"data": str},
    "sensor_msgs/msg/Image": {
        "header": "std_msgs/msg/Header",
        "height": int,
        "width": int,
        "encoding": str,
        "is_bigendian": int,
        "step": int,
        "data": array.array,
    },
    "sensor_msgs/msg/CompressedImage": {
        "header": "std_msgs/msg/Header",
        "format": str,
        "data": array.array,
    },
    "sensor_msgs/msg/CameraInfo": {},  # taken, never made
    "tf2_msgs/msg/TFMessage": {},
}


class Message:
    """Base of the message classes: fields of their types, and no others."""

    msgtype = ""

    def __init__(self) -> None:
        for name, kind in _FIELDS[self.msgtype].items():
            empty = MESSAGES[kind]() if isinstance(kind, str) else _EMPTY[kind]()
            object.__setattr__(self, name, empty)

    def __setattr__(self, name: str, value: Any) -> None:
        kind = _FIELDS[self.msgtype].get(name)
        assert kind is not None, f"'{name}' is no field of {self.msgtype}"
        wanted = MESSAGES[kind] if isinstance(kind, str) else kind
        assert type(value) is wanted, f"{self.msgtype}.{name} takes {wanted}, got {type(value)}"
        if isinstance(value, array.array):
            assert value.typecode == "B", "uint8[] takes an array of type B"
        if kind is int:
            assert 0 <= value < 2**32
        object.__setattr__(self, name, value)


_EMPTY: dict[Any, Callable[[], Any]] = {int: int, str: str, array.array: lambda: array.array("B")}
MESSAGES: dict[str, type[Message]] = {
    msgtype: type(msgtype.rpartition("/")[2], (Message,), {"msgtype": msgtype})
    for msgtype in _FIELDS
}


def as_received(message: Any) -> Any:
    """A message of rosbags with the containers that rclpy has."""
    if isinstance(message, np.ndarray):
        return array.array("B", message.tobytes()) if message.dtype == np.uint8 else message
    if isinstance(message, list):
        return [as_received(one) for one in message]
    if not hasattr(message, "__dataclass_fields__"):
        return message
    names = (name for name in message.__dataclass_fields__ if name != "__msgtype__")
    return types.SimpleNamespace(**{name: as_received(getattr(message, name)) for name in names})


class DurabilityPolicy(Enum):
    TRANSIENT_LOCAL = 1
    VOLATILE = 2


class ReliabilityPolicy(Enum):
    RELIABLE = 1
    BEST_EFFORT = 2


class QoSProfile:
    """Depth has to be given; the rest are the defaults of rclpy."""

    def __init__(
        self,
        *,
        depth: int,
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
    ) -> None:
        assert isinstance(depth, int)
        assert depth > 0
        self.depth, self.reliability, self.durability = depth, reliability, durability


SENSOR_DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass
class Subscription:
    msg_type: type[Message]
    topic: str
    callback: Callable[[Any], None]
    qos: QoSProfile
    raw: bool
    queue: deque[bytes]


@dataclass(eq=False)
class Publisher:
    node: Node
    msg_type: type[Message]
    topic: str
    qos: QoSProfile
    sent: list[Any] = field(default_factory=list)

    def get_subscription_count(self) -> int:
        self.node.check()
        return self.node.context.ros.listeners.get(self.topic, 0)

    def publish(self, msg: Any) -> None:
        self.node.check()
        assert type(msg) is self.msg_type, f"{self.topic} takes {self.msg_type}"
        self.sent.append(msg)


class Context:
    """``rclpy.context.Context`` of one fake."""

    ros: FakeRos

    def __init__(self) -> None:
        self._running = self._used = False
        self.nodes: list[Node] = []

    def ok(self) -> bool:
        return self._running

    def start(self) -> None:
        assert not self._used, "a context cannot be initialised twice"
        self._running = self._used = True

    def stop(self) -> None:
        self._running = False


class Node:
    def __init__(self, name: str, context: Context) -> None:
        assert context.ok(), "rclpy.init() has not been called"
        assert name.replace("_", "a").isalnum(), f"'{name}' is no name of a node"
        self.name, self.context, self.destroyed = name, context, False
        self.subscriptions: list[Subscription] = []
        self.publishers: list[Publisher] = []
        context.nodes.append(self)

    def check(self) -> None:
        if self.destroyed or not self.context.ok():
            raise RuntimeError("cannot use Destroyable because destruction was requested")

    def create_subscription(
        self,
        msg_type: type[Message],
        topic: str,
        callback: Callable[[Any], None],
        qos_profile: QoSProfile,
        *,
        callback_group: None = None,
        event_callbacks: None = None,
        qos_overriding_options: None = None,
        raw: bool = False,
    ) -> Subscription:
        self.check()
        _check_topic(topic)
        queue: deque[bytes] = deque(maxlen=qos_profile.depth)
        made = Subscription(msg_type, topic, callback, qos_profile, raw, queue)
        self.subscriptions.append(made)
        return made

    def create_publisher(
        self, msg_type: type[Message], topic: str, qos_profile: QoSProfile, *, callback_group=None
    ) -> Publisher:
        self.check()
        _check_topic(topic)
        made = Publisher(self, msg_type, topic, qos_profile)
        self.publishers.append(made)
        return made

    def get_topic_names_and_types(self, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        self.check()
        return self.context.ros.graph

    def destroy_node(self) -> None:
        self.check()
        self.destroyed = True


def _check_topic(topic: str) -> None:
    if not topic.startswith("/") or not topic.replace("/", "a").replace("_", "a").isalnum():
        raise ValueError(f"Invalid topic name: '{topic}'")


class SingleThreadedExecutor:
    def __init__(self, *, context: Context | None = None) -> None:
        assert context is not None, "the default context is everybody's"
        self._context, self._nodes = context, list[Node]()

    def add_node(self, node: Node) -> bool:
        assert node.context is self._context
        self._nodes.append(node)
        return True

    def remove_node(self, node: Node) -> None:
        self._nodes.remove(node)

    def spin_once(self, timeout_sec: float | None = None) -> None:
        assert timeout_sec is not None, "nobody could end this wait"
        assert timeout_sec <= 0.5, "nobody could end this wait"
        if not self._context.ok():
            raise RuntimeError("The executor's context was shut down")
        if not self._run_one():
            self._context.ros.step()
            if not self._run_one():
                time.sleep(min(timeout_sec, 0.01))

    def _run_one(self) -> bool:
        for node in self._nodes:
            for one in node.subscriptions:
                if one.queue:
                    raw = one.queue.popleft()
                    one.callback(raw if one.raw else deserialize_message(raw, one.msg_type))
                    return True
        return False


def deserialize_message(serialized_message: bytes, message_type: type[Message]) -> Any:
    assert type(serialized_message) is bytes
    try:
        decoded = STORE.deserialize_cdr(serialized_message, message_type.msgtype)
    except Exception as err:
        raise RuntimeError("failed to deserialize ROS message") from err
    return as_received(decoded)


class FakeRos:
    """One ROS 2 network: what is published to it, and what was published by it."""

    def __init__(self) -> None:
        self.script: Iterator[list[tuple[str, bytes]]] = iter(())
        self.graph: list[tuple[str, list[str]]] = []
        self.listeners: dict[str, int] = {}
        self.contexts: list[Context] = []
        self.refuse = ""

    def step(self) -> None:
        """Deliver the next step of the script."""
        for topic, raw in next(self.script, []):
            for context in self.contexts:
                for node in context.nodes:
                    for one in node.subscriptions:
                        if one.topic == topic and not node.destroyed:
                            one.queue.append(raw)

    @property
    def nodes(self) -> list[Node]:
        return [node for context in self.contexts for node in context.nodes]

    def sent(self, topic: str) -> list[Any]:
        """Every message that was published to a topic."""
        return [
            message
            for node in self.nodes
            for publisher in node.publishers
            if publisher.topic == topic
            for message in publisher.sent
        ]

    def shut_down(self) -> None:
        for context in self.contexts:
            context.stop()

    def check_all_left(self) -> None:
        assert not any(context.ok() for context in self.contexts), "a context is still open"

    def modules(self) -> dict[str, types.ModuleType]:
        """What ``import`` shall find."""
        ros = self

        class OwnContext(Context):
            def __init__(self) -> None:
                super().__init__()
                self.ros = ros
                ros.contexts.append(self)

        def init(
            *, args: list[str] | None = None, context: Context | None = None, domain_id=None,
            signal_handler_options=None,
        ) -> None:  # fmt: skip
            assert context is not None, "the default context is everybody's"
            if ros.refuse:
                raise RuntimeError(ros.refuse)
            context.start()

        def create_node(
            node_name: str, *, context: Context | None = None, cli_args=None, namespace=None,
            use_global_arguments: bool = True, enable_rosout: bool = True,
            start_parameter_services: bool = True,
        ) -> Node:  # fmt: skip
            assert context is not None, "the default context is everybody's"
            return Node(node_name, context)

        def try_shutdown(*, context: Context | None = None) -> None:
            assert context is not None, "the default context is everybody's"
            context.stop()

        contents: dict[str, dict[str, Any]] = {
            "rclpy": {"init": init, "create_node": create_node, "try_shutdown": try_shutdown},
            "rclpy.context": {"Context": OwnContext},
            "rclpy.node": {"Node": Node},
            "rclpy.executors": {"SingleThreadedExecutor": SingleThreadedExecutor},
            "rclpy.qos": {
                "QoSProfile": QoSProfile,
                "DurabilityPolicy": DurabilityPolicy,
                "ReliabilityPolicy": ReliabilityPolicy,
                "qos_profile_sensor_data": SENSOR_DATA,
            },
            "rclpy.serialization": {"deserialize_message": deserialize_message},
        }
        for msgtype, made in MESSAGES.items():
            package = msgtype.partition("/")[0]
            contents.setdefault(package, {})
            contents.setdefault(f"{package}.msg", {})[made.__name__] = made
        modules = {}
        for name, content in contents.items():
            modules[name] = types.ModuleType(name)
            modules[name].__dict__.update(content)
        return modules


#: What imports rclpy: imported anew by every test, so that none keeps the fake of another.
_OURS = [f"edge_fusion.runtime.{name}" for name in ("ros.node", "source.ros2", "sink.ros2")]


def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRos]:
    """A ROS 2 of one test's own, for a fixture; everybody has to have left it at the end."""
    fake = FakeRos()
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in _OURS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield fake
    for name in _OURS:
        sys.modules.pop(name, None)
    fake.check_all_left()
