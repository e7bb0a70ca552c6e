from __future__ import annotations

import threading
import time
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fusion.errors import SourceError
from edge_fusion.runtime.register import register_depth
from edge_fusion.runtime.source.librealsense import Inbox, streaming
from edge_fusion.runtime.source.realsense_streams import Mode, choose_streams

try:
    import pyrealsense2 as rs
except ImportError as err:  # the package, or a library of the system that it needs
    pytest.skip(f"librealsense is not usable: {err}", allow_module_level=True)

from tests.fakes.realsense import UNIT_M, Device, Shot, View, steady


def chosen(device: Device, mode: Mode | None = None) -> Any:
    return choose_streams(device.query_sensors(), mode, "the camera")


def sizes(streams: Any) -> tuple[tuple[int, int], tuple[int, int], int]:
    color, depth = streams.color_camera, streams.depth_camera
    return (color.width, color.height), (depth.width, depth.height), streams.fps


DEPTHS = [
    # Depth modes that a camera has; what goes with colour of 64x48 at 30.
    ([(64, 48, 30), (128, 96, 30)], (64, 48)),
    ([(32, 24, 30), (80, 48, 30), (128, 96, 30)], (80, 48)),
    ([(64, 48, 15), (32, 24, 30)], (32, 24)),
]


@pytest.mark.parametrize(("modes", "depth"), DEPTHS)
def test_depth_comes_at_the_nearest_size_of_the_same_rate(
    modes: list[tuple[int, int, int]], depth: tuple[int, int]
) -> None:
    device = Device([[View("depth", *mode) for mode in modes], [View("color"), View("infrared")]])
    assert sizes(chosen(device, Mode(64, 48, 30))) == ((64, 48), depth, 30)


def test_the_best_format_is_chosen() -> None:
    formats = ("uyvy", "bgr8", "rgb8", "yuyv")
    device = Device([[View("depth")], [View("color", format=one) for one in formats]])
    (_, profiles) = chosen(device, Mode(64, 48, 30)).sensors[1]
    assert [profile.format().name for profile in profiles] == ["rgb8"]


REFUSED = [
    ([[View("depth")]], None, "the camera has no colour stream: expected colour and depth, got"),
    ([[View("infrared")]], None, "has no colour stream.*got infrared"),
    ([], None, "has no colour stream.*got no stream at all"),
    ([[View("color")]], None, "has no depth stream.*use a camera or a recording that has both"),
    (
        [[View("depth")], [View("color", format="y8")]],
        None,
        "colour of the camera: expected one of the formats rgb8, .*got y8",
    ),
    (
        [[View("depth")], [View("color"), View("color", 128, 96, 15)]],
        Mode(640, 480, 30),
        r"colour of the camera: expected one of 64x48 at 30, 128x96 at 15, got 640x480 at 30; "
        r"choose one: realsense://\?size=.*USB 2",
    ),
    (
        [[View("depth", fps=15)], [View("color")]],
        Mode(64, 48, 30),
        "depth of the camera: expected one of 64x48 at 15, got 64x48 at 30",
    ),
    (
        [[View("depth")], [View("color", lens="kannala_brandt4", coefficients=(0.1, 0, 0, 0, 0))]],
        None,
        "the lens of the camera: expected no distortion, or one of brown_conrady.*kannala",
    ),
]


@pytest.mark.parametrize(("views", "mode", "told"), REFUSED)
def test_streams_that_cannot_be_used(views: list[list[View]], mode: Mode | None, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        chosen(Device(views), mode)


def test_cameras_that_are_not_related() -> None:
    with pytest.raises(SourceError, match="where the depth camera of the camera stands.*calibrat"):
        chosen(Device(related=False))


PICTURE = np.random.default_rng(0).integers(16, 235, (48, 64, 3), np.uint8)
PICTURE[:, 1::2] = PICTURE[:, ::2]  # two formats hold the colour of every second column only


def packed(rgb: NDArray[np.uint8], luma_at: int) -> NDArray[np.uint8]:
    """4:2:2 by BT.601: luma in one channel, in the other u and v of every second column in turn."""
    luma, u, v = (
        offset + rgb.astype(float) @ np.array(weights) / 255
        for offset, weights in (
            (16, (65.481, 128.553, 24.966)),
            (128, (-37.797, -74.203, 112.0)),
            (128, (112.0, -93.786, -18.214)),
        )
    )
    chroma = u.copy()
    chroma[:, 1::2] = v[:, ::2]
    channels = (luma, chroma) if luma_at == 0 else (chroma, luma)
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize(
    ("layout", "pixels", "tolerance"),
    [
        ("rgb8", PICTURE, 0),
        ("bgr8", PICTURE[..., ::-1], 0),
        ("rgba8", np.dstack((PICTURE, PICTURE[..., 0])), 0),
        ("bgra8", np.dstack((PICTURE[..., ::-1], PICTURE[..., 0])), 0),
        ("yuyv", packed(PICTURE, luma_at=0), 3),
        ("uyvy", packed(PICTURE, luma_at=1), 3),
    ],
)
def test_every_colour_format_becomes_red_first(
    layout: str, pixels: NDArray[np.uint8], tolerance: int
) -> None:
    device = Device([[View("depth")], [View("color", format=layout)]])
    streams = chosen(device)
    inbox = Inbox(4, live=True)
    with streaming(streams, inbox):
        device.deliver(Shot("color", 1, 10.0, pixels))
        image = inbox.take(1)
    assert image is not None
    rgb = streams.to_rgb(image.pixels)
    assert (rgb.shape, rgb.dtype) == ((48, 64, 3), np.uint8)
    assert np.abs(rgb.astype(int) - PICTURE).max() <= tolerance


# --- geometry, against the SDK's own projection --------------------------------------------------

TURNED = cv2.Rodrigues(np.array([0.02, -0.03, 0.05]))[0]
LENSES: list[tuple[str, tuple[float, ...]]] = [
    ("none", (0, 0, 0, 0, 0)),
    ("brown_conrady", (-0.05, 0.06, -0.002, 0.003, -0.02)),
    ("inverse_brown_conrady", (-0.0576, 0.0665, -0.0005, 0.0002, -0.0212)),  # as of a D455
    ("modified_brown_conrady", (-0.05, 0.06, -0.002, 0.003, -0.02)),
]


@pytest.mark.parametrize(("lens", "coefficients"), LENSES)
@pytest.mark.parametrize("spot", [(80, 60), (30, 100), (130, 20)])
def test_depth_lands_where_the_sdk_projects_it(
    lens: str, coefficients: tuple[float, ...], spot: tuple[int, int]
) -> None:
    color = View("color", 200, 150, focal=170.0, lens=lens, coefficients=coefficients)
    device = Device(
        [[View("depth", 160, 120, focal=120.0)], [color]],
        rotation=list(TURNED.T.ravel()),  # the SDK writes it column by column
        translation_m=(0.05, -0.01, 0.004),
    )
    streams = chosen(device)
    x, y = spot
    depth = np.zeros((120, 160), np.uint16)
    depth[y - 1 : y + 2, x - 1 : x + 2] = 1600
    moved = register_depth(
        depth, UNIT_M, streams.depth_camera, streams.color_camera, streams.depth_to_color
    )
    at, distance_m = _projected(streams, spot, 1600 * UNIT_M)
    rows, columns = np.nonzero(moved)
    assert np.hypot(columns.mean() - at[0], rows.mean() - at[1]) < 0.8
    assert np.median(moved[moved > 0]) * UNIT_M == pytest.approx(distance_m, abs=2 * UNIT_M)


def _projected(streams: Any, spot: tuple[int, int], distance_m: float) -> tuple[list[float], float]:
    (_, (depth,)), (_, (color,)) = streams.sensors
    point = rs.rs2_deproject_pixel_to_point(depth.get_intrinsics(), list(spot), distance_m)
    there = rs.rs2_transform_point_to_point(depth.get_extrinsics_to(color), point)
    return rs.rs2_project_point_to_pixel(color.get_intrinsics(), there), there[2]


# --- how images are handed over -------------------------------------------------------------------


def test_an_inbox_waits_for_its_reader_or_forgets_the_oldest() -> None:
    device = Device()
    for live, numbers in ((True, [8, 9]), (False, list(range(10)))):
        inbox, taken = Inbox(2, live), []
        with streaming(chosen(device), inbox):
            shots = (shot for shot in steady(10) if shot.stream == "depth")
            sender = threading.Thread(target=lambda shots=shots: [*map(device.deliver, shots)])
            sender.start()
            time.sleep(0.1)
            while (image := inbox.take(0.2)) is not None:
                taken.append(image.number)
            sender.join()
        assert taken == numbers
        assert inbox.overrun == 10 - len(numbers)


def test_a_closed_inbox_lets_a_waiting_thread_go() -> None:
    device = Device()
    inbox = Inbox(1, live=False)
    with streaming(chosen(device), inbox):
        sender = threading.Thread(target=lambda: [*map(device.deliver, steady(3))])
        sender.start()
        time.sleep(0.1)
        assert sender.is_alive()
    sender.join(1)
    assert not sender.is_alive()


def test_images_are_copies() -> None:
    device = Device()
    inbox = Inbox(100, live=True)
    with streaming(chosen(device), inbox):
        for shot in steady(40):  # more than the SDK has buffers
            device.deliver(shot)
        images = [inbox.take(0.2) for _ in range(80)]
    assert all(image is not None and image.pixels.flags.owndata for image in images)
    assert all(np.unique(image.pixels).size == 1 for image in images if image is not None)
