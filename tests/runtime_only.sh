#!/bin/sh
# Runs the tests of the runtime without torch, onnx and nncf under the Pythons of JetPack 6 and 7,
# each in an environment of its own.  An interpreter that is not on this machine is skipped aloud.
set -eu
cd "$(dirname "$0")/.."

find_python() {
  for candidate in "$(command -v "python$1" || true)" "$HOME"/.pyenv/versions/"$1".*/bin/"python$1"; do
    if [ -x "$candidate" ] && "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

check() { # version, numpy requirement, OpenCV requirement
  python=$(find_python "$1")
  if [ -z "$python" ]; then
    echo "runtime-only tests under Python $1: SKIPPED, no such interpreter here"
    return
  fi
  env=".venv-runtime-$1"
  [ -d "$env" ] || "$python" -m venv "$env"
  grep -v -E '^(numpy|opencv)' constraints.txt > "$env/constraints.txt"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$env/constraints.txt" -e '.[ort,report,rosbag]' pytest pytest-xdist "$2" "$3"
  echo "runtime-only tests under Python $1:"
  "$env/bin/python" -c 'import numpy, cv2; print("numpy", numpy.__version__, "cv2", cv2.__version__)'
  "$env/bin/python" -m pytest -q -n auto --dist worksteal -m 'not export' \
    tests/edge_fusion tests/runtime tests/calibration tests/test_cli.py tests/test_face.py \
    tests/test_build_command.py tests/test_compare_command.py tests/test_calib_command.py \
    tests/export/test_engine*.py tests/export/test_serving.py tests/export/test_trtexec.py
}

check 3.10 'numpy==1.26.4' 'opencv-python-headless<4.12'
check 3.12 'numpy>=2' 'opencv-python-headless<5'
