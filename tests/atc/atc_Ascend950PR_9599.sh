#!/usr/bin/env bash
# Compiles model.onnx for Ascend950PR_9599 (Ascend 950).
# PRECISION=origin keeps the types of the file, for parity. Further options go to atc as they are.
set -euo pipefail
cd "$(dirname "$0")"
source ./common.sh
precision="${PRECISION:-mixed_hif8}"
prepare_atc
compile model Ascend950PR_9599 \
  --input_format=NCHW \
  --input_shape=x:2,3,-1,-1 \
  '--dynamic_image_size=16,16;32,24' \
  --enable_small_channel=1 \
  "$@"
