#!/bin/sh
# The main job on an embedded default, end to end: train a small network for a few minutes, build an
# INT8 bundle, stream it, compare it.  Called by `make demo` with BIN and OUT.
set -eu
mkdir -p "$OUT"
export OMP_WAIT_POLICY=PASSIVE  # threads that spin for a busy core would slow training down
step() { printf '\n== %s\n' "$*"; }

# Worlds from seed 2^30 on are never trained on.
unseen=1073741824

step "1/4 train mutualformer-mobilenetv2 on procedural scenes for ${MINUTES:=5} minutes"
"$BIN/python" -m benchmarks.reference.train --minutes "$MINUTES" --min-iou 0.6 \
  --out "$OUT/mutualformer-mobilenetv2.safetensors"

step "2/4 build: fold, trace, simplify, quantize, legalise, lint, verify"
"$BIN/edge-fusion" build mutualformer-mobilenetv2 \
  --checkpoint "$OUT/mutualformer-mobilenetv2.safetensors" \
  --calib "demo://?frames=48&cut=1&noise=mixed&seed=5000" --target orin-nano \
  -o "$OUT/bundle" --force

step "3/4 run: a scene the network has not seen"
"$BIN/edge-fusion" run "$OUT/bundle" "demo://?frames=120&seed=$unseen" "$OUT/overlay.mp4"

step "4/4 compare FP32 and INT8 on 64 unseen scenes"
"$BIN/edge-fusion" compare "$OUT/bundle" \
  --data "demo://?frames=64&cut=1&noise=mixed&seed=$((unseen + 1000))" \
  --html "$OUT/report.html" --json "$OUT/compare.json" --max-drop mae=0.005 --require iou=0.6

step "done: $OUT/bundle, $OUT/overlay.mp4, $OUT/report.html"
