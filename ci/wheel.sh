#!/usr/bin/env bash
# Build the wheel, install it without extras, and use it from an empty folder.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
. "$work/venv/bin/activate"
pip wheel --quiet --no-deps --wheel-dir "$work" .
pip install --quiet -c ci/constraints.txt "$work"/*.whl
mkdir "$work/empty"
cp ci/use_wheel.py "$work/empty"
cd "$work/empty"
python use_wheel.py
