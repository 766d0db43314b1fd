#!/usr/bin/env bash
# The README's first command, to the letter: install and run the main job on the shipped example.
set -euo pipefail
cd "$(dirname "$0")/.."
bash -euxc "$(python3 ci/readme_command.py 1)"
