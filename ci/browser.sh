#!/usr/bin/env bash
# Chromium and its driver, for the tests of the HTML page: Debian's, as root. Elsewhere install them yourself, or those
# tests are skipped.
set -euo pipefail
if command -v chromium && command -v chromedriver; then
    exit
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get; then
    echo "Chromium is not installed: the tests of the HTML page will be skipped."
    exit
fi
apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null \
    || echo "Chromium cannot be had: the tests of the HTML page will be skipped."
