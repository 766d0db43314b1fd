#!/usr/bin/env bash
# The slow tests: models of other libraries, several processes, the real torch_npu, and the tools; a few attacks.
set -euo pipefail
cd "$(dirname "$0")/.."
. .venv/bin/activate
pip install --quiet -c ci/constraints.txt -e ".[dev]"
pytest -m slow -n 2
python tools/attack.py --count 2
