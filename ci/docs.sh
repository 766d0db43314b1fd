#!/usr/bin/env bash
# The documents site, built into site/: a broken link or a page that is in no menu fails.
set -euo pipefail
cd "$(dirname "$0")/.."
. .venv/bin/activate
pip install --quiet -c ci/constraints.txt -e ".[docs]"
mkdocs build --strict --clean
