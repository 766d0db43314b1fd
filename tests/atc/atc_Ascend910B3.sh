#!/usr/bin/env bash
# Compiles model.onnx and original.onnx for Ascend910B3 (Atlas A2). First: source CANN's set_env.sh.
# PRECISION=origin keeps the types of the file, for parity. Further options go to atc as they are.
set -euo pipefail
cd "$(dirname "$0")"
precision="${PRECISION:-fp16}"
atc \
  --mode=0 \
  --framework=5 \
  --model=model.onnx \
  --output="model_Ascend910B3_$precision" \
  --soc_version=Ascend910B3 \
  --input_format=NCHW \
  --input_shape="x:2,3,16,16" \
  --precision_mode_v2="$precision" \
  --enable_small_channel=1 \
  "$@"
atc \
  --mode=0 \
  --framework=5 \
  --model=original.onnx \
  --output="original_Ascend910B3_$precision" \
  --soc_version=Ascend910B3 \
  --input_format=NCHW \
  --input_shape="x:2,3,16,16" \
  --precision_mode_v2="$precision" \
  --enable_small_channel=1 \
  "$@"
