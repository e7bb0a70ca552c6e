#!/bin/sh
# The main job on an embedded default, end to end: build an INT8 bundle of the reference model,
# stream it, compare it.  Called by `make demo` with BIN and OUT.
set -eu
mkdir -p "$OUT"
step() { printf '\n== %s\n' "$*"; }

# No network was ever trained on worlds from seed 2^30 on.
unseen=1073741824

step "1/3 build: fold, trace, simplify, quantize, legalise, lint, verify"
"$BIN/edge-fusion" build mutualformer-mobilenetv2 \
  --calib "demo://?frames=48&cut=1&noise=mixed&seed=5000" --target orin-nano \
  -o "$OUT/bundle" --force

step "2/3 run: a scene the network has not seen"
"$BIN/edge-fusion" run "$OUT/bundle" "demo://?frames=120&seed=$unseen" "$OUT/overlay.mp4"

step "3/3 compare FP32 and INT8 on 64 unseen scenes"
"$BIN/edge-fusion" compare "$OUT/bundle" \
  --data "demo://?frames=64&cut=1&noise=mixed&seed=$((unseen + 1000))" \
  --html "$OUT/report.html" --json "$OUT/compare.json" --max-drop mae=0.005 --require iou=0.6

step "done: $OUT/bundle, $OUT/overlay.mp4, $OUT/report.html"
