from __future__ import annotations

import pytest

from edge_fusion.dependencies import naming_missing_packages
from edge_fusion.errors import MissingDependencyError


@pytest.mark.parametrize(
    "module", ["rosbags", "mcap.writer", "lz4.frame", "zstandard", "backports.zstd", "apsw"]
)
def test_what_recordings_stand_on_is_named_with_its_extra(module: str) -> None:
    package = module.split(".")[0]
    told = rf"'run' needs {package}, .*pip install 'edge-fusion\[rosbag\]'"
    with pytest.raises(MissingDependencyError, match=told), naming_missing_packages("run"):
        raise ImportError(f"No module named '{module}'", name=module)


def test_an_import_that_fails_otherwise_is_a_bug() -> None:
    with pytest.raises(ImportError, match="nonsense"), naming_missing_packages("run"):
        raise ImportError("nonsense", name="edge_fusion.nonsense")
