"""Which topics of a recording hold colour, depth and what belongs to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_fusion.errors import SourceError

from ..ros.camera import CAMERA_INFO
from ..ros.fields import RELATIVE_TOPIC, RESULT_TOPICS
from ..ros.images import COMPRESSED, IMAGE, Kind, base_topic, kind_of
from .bag_file import Bag, Dialect, Topic

IMAGE_TYPES = (IMAGE, COMPRESSED)
_KINDS: dict[Kind, str] = {"color": "colour", "depth": "depth"}


@dataclass(frozen=True, slots=True)
class ChosenTopics:
    """The topics of one RGB-D camera; an info topic is None where there is none."""

    color: str
    depth: str
    color_info: str | None
    depth_info: str | None


def choose_topics(bag: Bag, dialect: Dialect, where: str, named: Mapping[str, str]) -> ChosenTopics:
    """The topics to read.

    Colour and depth that are not named are taken where there is just one candidate.  Of the raw and
    the compressed form of one stream the raw one counts; grey images, and what this package itself
    writes as results, never do.  A CameraInfo is found beside its images by ROS's convention,
    ``.../camera_info``.

    Args:
        bag: The recording.
        dialect: How its messages are read.
        where: The recording, for messages.
        named: What the user named: ``color``, ``depth``, ``info``, ``depth_info``.

    Raises:
        SourceError: A named topic is missing, empty or of another type; or there is not exactly one
            candidate for what is not named.
    """
    topics = bag.topics
    for key, name in named.items():
        _check_named(topics, where, key, name)
    chosen = {kind: named.get(kind) for kind in _KINDS}
    if None in chosen.values():
        candidates = _candidates(bag, dialect, set(named.values()))
        for kind in _KINDS:
            chosen[kind] = chosen[kind] or _only(candidates[kind], topics, where, kind)
    color, depth = str(chosen["color"]), str(chosen["depth"])
    return ChosenTopics(
        color=color,
        depth=depth,
        color_info=named.get("info") or _info_beside(topics, color),
        depth_info=named.get("depth_info") or _info_beside(topics, depth),
    )


def list_topics(topics: Mapping[str, Topic]) -> str:
    """Topics with type and count, the useful ones first, as text for messages."""
    useful = (*IMAGE_TYPES, CAMERA_INFO)
    ordered = sorted(topics.items(), key=lambda one: (one[1].type not in useful, one[0]))
    return ", ".join(f"{name} ({topic.type}, {topic.count})" for name, topic in ordered) or "none"


def first_message(bag: Bag, dialect: Dialect, topic: str) -> Any | None:
    """The first message of a topic that can be decoded; None: there is none."""
    type_ = bag.topics[topic].type
    messages = bag.messages([topic])
    try:
        for message in messages:
            try:
                return dialect.decode(message.raw, type_)
            except Exception:  # a damaged one: whoever reads the whole topic counts it
                continue
    except SourceError:  # so does whoever reads to the end
        return None
    finally:
        messages.close()
    return None


def _check_named(topics: Mapping[str, Topic], where: str, key: str, name: str) -> None:
    wanted = (CAMERA_INFO,) if key.endswith("info") else IMAGE_TYPES
    topic = topics.get(name)
    if topic is None or topic.type not in wanted or not topic.count:
        problem = (
            "is not in it"
            if topic is None
            else f"is a {topic.type}"
            if topic.type not in wanted
            else "has no messages"
        )
        raise SourceError(
            f"{where}: {key}={name} {problem}",
            expected=f"a topic of {' or '.join(wanted)}",
            got=f"the topics {list_topics(topics)}",
        )


def _candidates(bag: Bag, dialect: Dialect, taken: set[str]) -> dict[Kind, list[str]]:
    found: dict[Kind, dict[str, str]] = {kind: {} for kind in _KINDS}
    bases = {base_topic(name) for name in taken}
    topics = bag.topics
    # Raw images first: their compressed form then finds its place taken.
    for name in sorted(topics, key=lambda name: (topics[name].type != IMAGE, name)):
        base = base_topic(name)
        if (
            topics[name].type not in IMAGE_TYPES
            or not topics[name].count
            or name in RESULT_TOPICS
            or base in bases
        ):
            continue
        message = first_message(bag, dialect, name)
        kind = kind_of(message) if message is not None else None
        if message is not None and name == RELATIVE_TOPIC:
            kind = "depth"  # in 8 bits it looks like a grey image
        if kind:
            found[kind].setdefault(base, name)
    return {kind: list(names.values()) for kind, names in found.items()}


def _only(candidates: list[str], topics: Mapping[str, Topic], where: str, kind: Kind) -> str:
    if len(candidates) == 1:
        return candidates[0]
    raise SourceError(
        f"{where}: which topic is {_KINDS[kind]}?",
        expected="just one candidate",
        got=f"{', '.join(candidates) or 'none'} among the topics {list_topics(topics)}",
        cure=f"name it: {kind}=TOPIC",
    )


def _info_beside(topics: Mapping[str, Topic], images: str) -> str | None:
    name = f"{base_topic(images).rpartition('/')[0]}/camera_info"
    return name if name in topics and topics[name].type == CAMERA_INFO else None
