#!/usr/bin/env bash
# Compiles model.onnx and original.onnx for Ascend910B3 (Atlas A2).
# PRECISION=origin keeps the types of the file, for parity. Further options go to atc as they are.
set -euo pipefail
cd "$(dirname "$0")"
source ./common.sh
precision="${PRECISION:-fp16}"
prepare_atc
compile model Ascend910B3 \
  --input_format=NCHW \
  --input_shape=x:2,3,16,16 \
  --enable_small_channel=1 \
  "$@"
compile original Ascend910B3 \
  --input_format=NCHW \
  --input_shape=x:2,3,16,16 \
  --enable_small_channel=1 \
  "$@"
