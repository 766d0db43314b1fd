"""The NPU's backend on the simulated device, which runs in separate processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


def _run_on_simulated_npu(*arguments: str) -> dict[str, int]:
    """Run pytest with the simulated device; returns the number of tests by outcome, none of them a failure."""
    pytest_ = [sys.executable, "-m", "pytest", "-p", "tests.simulated_npu", "-p", "no:cacheprovider", "-q"]
    # On a machine with an NPU, torch must not load the real torch_npu first.
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    done = subprocess.run(
        [*pytest_, *arguments], cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {end: int(count) for count, end in re.findall(r"(\d+) (passed|skipped|xfailed)", done.stdout)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("-m", "npu", "tests/test_on_devices.py"), id="as any device"),
        pytest.param(("tests/simulated",), id="as an NPU"),
    ],
)
def test_the_backend_works_on_the_simulated_npu(arguments: tuple[str, ...]) -> None:
    ends = _run_on_simulated_npu(*arguments)
    assert ends["passed"] >= 10
    assert ends.keys() == {"passed"}
