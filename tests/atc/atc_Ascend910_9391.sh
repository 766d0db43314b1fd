#!/usr/bin/env bash
# Compiles model.onnx for Ascend910_9391 (Atlas A3). First: source CANN's set_env.sh.
# PRECISION=origin keeps the types of the file, for parity. Further options go to atc as they are.
set -euo pipefail
cd "$(dirname "$0")"
precision="${PRECISION:-origin}"
atc \
  --mode=0 \
  --framework=5 \
  --model=model.onnx \
  --output="model_Ascend910_9391_$precision" \
  --soc_version=Ascend910_9391 \
  --input_format=NCHW \
  --input_shape="x:-1,3,16,16" \
  --precision_mode_v2="$precision" \
  --dynamic_batch_size="1,2,4" \
  --enable_small_channel=1 \
  "$@"
