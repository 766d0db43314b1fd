#!/usr/bin/env bash
# The README's second command, to the letter: install and run the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
bash -euxc "$(python3 ci/readme_command.py 2)"
