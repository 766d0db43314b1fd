"""The commands that install torch_npu beside the torch that it needs."""

from __future__ import annotations

import pytest
from amct_backends.npu_loading import installing


@pytest.mark.parametrize(
    ("release", "machine", "version", "command"),
    [
        ("2.12.0", "x86_64", None, "pip install torch==2.12.0 torch-npu==2.12.0 pyyaml"),
        ("2.13.0", "aarch64", None, "pip install torch==2.13.0 torch-npu==2.13.0 pyyaml"),
        (
            "2.11.0",
            "x86_64",
            None,
            "pip install torch==2.11.0+cpu from PyTorch's index of CPU builds, "
            "then pip install torch-npu==2.11.0 pyyaml",
        ),
        ("2.10.0", "aarch64", None, "pip install torch==2.10.0 torch-npu==2.10.0.post4 pyyaml"),
        (
            "2.9.0",
            "x86_64",
            "2.9.0.post2",
            "pip install torch==2.9.0+cpu from PyTorch's index of CPU builds, "
            "then pip install torch-npu==2.9.0.post2 pyyaml",
        ),
    ],
)
def test_a_release_is_installed_from_the_index_that_has_its_build(
    release: str, machine: str, version: str | None, command: str
) -> None:
    assert installing(release, machine, version) == command
