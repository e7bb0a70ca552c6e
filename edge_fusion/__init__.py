"""Two-stream RGB-D saliency networks on a Jetson: built, streamed and compared."""

__version__ = "0.1.0"

__all__ = ["__version__"]
