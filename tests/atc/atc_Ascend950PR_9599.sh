#!/usr/bin/env bash
# Compiles model.onnx for Ascend950PR_9599 (Ascend 950). First: source CANN's set_env.sh.
# PRECISION=origin keeps the types of the file, for parity. Further options go to atc as they are.
set -euo pipefail
cd "$(dirname "$0")"
precision="${PRECISION:-mixed_bfloat16}"
atc \
  --mode=0 \
  --framework=5 \
  --model=model.onnx \
  --output="model_Ascend950PR_9599_$precision" \
  --soc_version=Ascend950PR_9599 \
  --input_format=NCHW \
  --input_shape="x:2,3,-1,-1" \
  --precision_mode_v2="$precision" \
  --dynamic_image_size="16,16;32,24" \
  --enable_small_channel=1 \
  "$@"
