"""What builds on the far side of the remote tests: writes what ``edge-fusion build`` writes.

Called as ``build BUNDLE --precision P --json FILE``.  STAND_IN says how it behaves.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from edge_fusion.bundle import Bundle
from edge_fusion.engine import write_engine
from tests.export.device_bundles import engine_record

PLAN = b"a plan that belongs to the far side" * 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["build"])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    with (arguments.bundle.parent / "runs").open("a") as runs:
        runs.write("run\n")
    bundle = Bundle.read(arguments.bundle)
    for number in range(int(os.environ.get("STAND_IN_LINES", "1"))):
        print(f"step {number}", flush=True)
        time.sleep(float(os.environ.get("STAND_IN_SLEEP", "0")))
    if message := os.environ.get("STAND_IN_ERROR"):
        sys.exit(f"a line before\n\x1b[31merror: {message}\x1b[0m")
    if status := os.environ.get("STAND_IN_STATUS"):
        os._exit(int(status))
    record = engine_record(bundle, PLAN)
    write_engine(bundle, record, PLAN, '{"Layers": []}')
    arguments.json.write_text(record.model_dump_json())


if __name__ == "__main__":
    main()
