#!/usr/bin/env bash
# Style, types and import rules.
set -euo pipefail
cd "$(dirname "$0")/.."
. .venv/bin/activate
pip install --quiet -c ci/constraints.txt -e ".[dev]"
ruff check .
ruff format --check .
mypy
lint-imports
