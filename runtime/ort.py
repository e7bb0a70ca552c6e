"""ONNX Runtime on the CPU: the reference every other backend is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_fusion.errors import SessionError
from edge_fusion.spec import TensorSpec

from .feed import check_inputs as check_inputs
from .session import Tensors

Kernels = Literal["reference", "int8"]

_ANY = -1  # a size that is only known when the model runs
_FLOAT = "tensor(float)"
_ERRORS_ONLY = 3

# Without VNNI, x86 kernels add pairs of u8*s8 products in 16 bits and saturate: the same file then
# answers with a mean absolute error of 0.068 instead of 0.030.  Executing every QuantizeLinear and
# DequantizeLinear as written is exact on every processor, and no slower than those kernels there.
_CONFIG: dict[Kernels, dict[str, str]] = {
    "reference": {"session.disable_quant_qdq": "1"},
    "int8": {},
}
_COMMON_CONFIG = {
    # A spinning pool steals cores from every other session, and from what is being timed.
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
}


class OrtSession:
    """A model on ONNX Runtime's CPU provider, float32 in and out.

    Args:
        model: A serialised ONNX model with fixed input shapes.
        threads: Threads of one run; None takes every core.
        kernels: ``reference`` executes quantization exactly as the graph says it, which is what
            parity and golden outputs need.  ``int8`` lets ONNX Runtime fuse it into its 8-bit
            kernels: for timing on the CPU, and wrong on x86 without VNNI where the graph holds
            uint8 activations.

    Raises:
        SessionError: ONNX Runtime refuses the model, or an input is not float32 of fixed shape.

    Example:
        >>> with OrtSession(model_bytes, threads=1) as session:  # doctest: +SKIP
        ...     saliency = session.run(inputs)["saliency"]
    """

    def __init__(
        self, model: bytes, *, threads: int | None = None, kernels: Kernels = "reference"
    ) -> None:
        if threads is not None and threads < 1:
            raise SessionError("threads", expected="at least 1, or None", got=str(threads))
        if kernels not in _CONFIG:
            raise SessionError("kernels", expected=" or ".join(_CONFIG), got=repr(kernels))
        self._session: Any = _open(model, _options(threads, kernels))
        self._inputs = tuple(_input_spec(arg) for arg in self._session.get_inputs())
        self._outputs = tuple(
            TensorSpec(name=arg.name, shape=_shape(arg.shape))
            for arg in self._session.get_outputs()
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name and shape of every input, in the graph's order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name and shape of every output; -1 where a size is only known when the model runs."""
        return self._outputs

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        """Run the model once.

        Args:
            inputs: Every input by name, float32, in the model's shape.

        Returns:
            Every output by name, float32.

        Raises:
            SessionError: The session is closed; an input is missing, unknown or of another shape
                or dtype; or ONNX Runtime failed.
        """
        if self._session is None:
            raise SessionError("the session is closed", cure="open another one")
        check_inputs(inputs, self._inputs)
        try:
            values = self._session.run(None, dict(inputs))
        except Exception as err:  # its exceptions share no base of their own
            raise SessionError("ONNX Runtime failed to run the model", got=first_line(err)) from err
        return {spec.name: value for spec, value in zip(self._outputs, values, strict=True)}

    def close(self) -> None:
        """Free the model; a closed session refuses to run."""
        self._session = None

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _options(threads: int | None, kernels: Kernels) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.use_deterministic_compute = True
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in (_COMMON_CONFIG | _CONFIG[kernels]).items():
        options.add_session_config_entry(key, value)
    return options


def _open(model: bytes, options: Any) -> Any:
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as err:  # its exceptions share no base of their own
        raise SessionError("ONNX Runtime refused the model", got=first_line(err)) from err


def _input_spec(arg: Any) -> TensorSpec:
    shape = _shape(arg.shape)
    if arg.type != _FLOAT or _ANY in shape:
        raise SessionError(
            f"the model's input '{arg.name}'",
            expected="tensor(float) of fixed shape",
            got=f"{arg.type} {arg.shape}",
            cure="export it in float32 with the sizes it will run at: "
            "'edge-fusion build FILE.onnx' fixes free axes",
        )
    return TensorSpec(name=arg.name, shape=shape)


def _shape(dims: Sequence[int | str | None]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else _ANY for dim in dims)


def first_line(error: BaseException) -> str:
    """What a third-party error says, in one line; its class where it says nothing.

    Example:
        >>> first_line(RuntimeError("no such operator: Foo" + chr(10) + "see the log"))
        'no such operator: Foo'
    """
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
