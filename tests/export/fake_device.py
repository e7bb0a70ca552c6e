"""The real command line on a device that is not there: TensorRT and GPU are fakes."""

from __future__ import annotations

import sys

from edge_fusion.__main__ import main
from edge_fusion.runtime import cuda
from tests.fakes.cudart import FakeCuda
from tests.fakes.tensorrt_api import Gpu, make_tensorrt

if __name__ == "__main__":
    sys.modules["tensorrt"] = make_tensorrt("10.3", Gpu(name="Orin", sm="8.7"))
    cuda.Cuda.load = classmethod(lambda cls: FakeCuda())  # type: ignore[assignment]
    cuda.missing_gpu = lambda: ""
    main()
