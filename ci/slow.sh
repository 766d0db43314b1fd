#!/usr/bin/env bash
# The slow tests: models that nobody here wrote, and the speed benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
. .venv/bin/activate
pip install --quiet -c ci/constraints.txt -e ".[dev]"
pytest -m slow
