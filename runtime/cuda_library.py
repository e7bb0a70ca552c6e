"""libcudart: where it is found, and what of it is used.

Only functions that every version from 11.4 (JetPack 5) to 13 (JetPack 7) exports under one name
and with one signature.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any

from edge_fusion.errors import SessionError

# The unversioned name is the system's own choice; the others are what packages install.
NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
DRIVER_TOO_OLD = 35  # cudaErrorInsufficientDriver; also what comes where there is no driver
_CUDA_FOLDERS = ("cuda*/lib64", "cuda*/targets/*/lib")

_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaGetLastError": (),
    "cudaGetErrorString": (c_int,),
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaGetDevice": (POINTER(c_int),),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cudaHostGetDevicePointer": (POINTER(c_void_p), c_void_p, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaStreamCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    # cudaGraphInstantiate itself changed its arguments between CUDA 11 and 12.
    "cudaGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
}
# The version in a file's name, else in the toolkit's folder: .../cuda-12.6/lib64/libcudart.so
_VERSION = re.compile(r"(?:\.so\.|cuda-)(\d+(?:\.\d+)*)")
_RESULTS = {"cudaGetErrorString": c_char_p}  # every other function returns its status


def find_library() -> ctypes.CDLL | None:
    """Load libcudart: the loader's own, else pip's, else that below ``/usr/local``.

    One that is too new for the driver is passed over where another one is not; where all are,
    the first is taken, and whoever calls it learns why it does not work.
    """
    first = None
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if not _is_too_new(library):
            return library
        first = first or library
    return first


def _is_too_new(library: ctypes.CDLL) -> bool:
    try:
        status: int = library.cudaGetDeviceCount(ctypes.byref(c_int()))
        library.cudaGetLastError()  # else this error is found by the next one who asks
    except AttributeError:  # bind() says what else is wrong with it
        return False
    return status == DRIVER_TOO_OLD


def _candidates() -> Iterator[str]:
    """Names for the loader, then files: pip's wheels, then the toolkit's folders."""
    yield from NAMES
    for entry in map(Path, sys.path):
        yield from _newest_first(entry, "nvidia/*/lib")
    for folder in _CUDA_FOLDERS:
        yield from _newest_first(Path("/usr/local"), folder)


def _newest_first(root: Path, folder: str) -> list[str]:
    """Every library once, whatever links lead to it."""
    files = {str(path.resolve()) for path in root.glob(f"{folder}/libcudart.so*")}
    return sorted(files, key=_version, reverse=True)


def _version(path: str) -> tuple[int, ...]:
    found = _VERSION.findall(path)
    return tuple(int(part) for part in found[-1].split(".")) if found else ()


def bind(library: ctypes.CDLL) -> dict[str, Any]:
    """Every function by name, with the types of its arguments and its result.

    Raises:
        SessionError: The library is older than CUDA 11.4.
    """
    functions: dict[str, Any] = {}
    for name, arguments in _PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError as err:
            raise SessionError(
                f"the CUDA runtime {library._name} has no {name}",
                expected="CUDA 11.4 or newer",
                cure="use the CUDA that came with JetPack 5 or newer",
            ) from err
        function.argtypes, function.restype = arguments, _RESULTS.get(name, c_int)
        functions[name] = function
    return functions
