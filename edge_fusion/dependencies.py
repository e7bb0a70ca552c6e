"""Packages that come by extras: what to say where one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge_fusion.errors import MissingDependencyError

#: What brings a package whose absence is found only when a command imports it.
CURES = {
    "cv2": "pip install 'edge-fusion[opencv]', or on a Jetson use the system's own OpenCV from a "
    "virtual environment made with --system-site-packages",
    "a cv2 built for this numpy": "pip install 'numpy<2', as JetPack 6 needs for its own OpenCV",
    **dict.fromkeys(
        ("torch", "onnx", "onnxslim", "onnxscript", "nncf", "safetensors"),
        "pip install 'edge-fusion[export]' on the workstation; the device does not need it",
    ),
    "onnxruntime": "pip install 'edge-fusion[ort]'",
    "pyrealsense2": "pip install 'edge-fusion[realsense]' and apt install libusb-1.0-0",
    "depthai": "pip install 'edge-fusion[oak]'",
    **dict.fromkeys(
        # With what rosbags and mcap stand on themselves.
        ("rosbags", "mcap", "lz4", "zstandard", "backports", "ruamel", "apsw"),
        "pip install 'edge-fusion[rosbag]'",
    ),
    "rerun": "pip install 'edge-fusion[rerun]'",
    "psutil": "pip install 'edge-fusion[telemetry]'",
    **dict.fromkeys(
        ("rclpy", "sensor_msgs", "std_msgs", "tf2_msgs"),
        "source /opt/ros/DISTRO/setup.bash, in an environment made with --system-site-packages",
    ),
}


@contextmanager
def naming_missing_packages(command: str | None) -> Iterator[None]:
    """Say which extra brings a package that is not installed; any other import error is a bug."""
    try:
        yield
    except ImportError as err:
        package = (err.name or "").split(".")[0]
        if "numpy.core.multiarray" in str(err):  # how a cv2 built against numpy 1 fails under 2
            package = "a cv2 built for this numpy"
        if package not in CURES:
            raise
        raise MissingDependencyError(
            package, needed_for=f"'{command}'", cure=CURES[package]
        ) from err
