#!/usr/bin/env bash
# Compiles model.onnx for Ascend910_9391 (Atlas A3).
# PRECISION=origin keeps the types of the file, for parity. Further options go to atc as they are.
set -euo pipefail
cd "$(dirname "$0")"
source ./common.sh
precision="${PRECISION:-origin}"
prepare_atc
compile model Ascend910_9391 \
  --input_format=NCHW \
  --input_shape=x:-1,3,16,16 \
  --dynamic_batch_size=1,2,4 \
  --enable_small_channel=1 \
  "$@"
