"""The shipped network and its data, and the command that shows the library on them."""

from __future__ import annotations

import sys

import pytest
import torch

from amct_pytorch.demo import WEIGHTS_PATH, accuracy, load_digits_tensors, load_pretrained
from amct_pytorch.errors import MissingExtra


def test_the_shipped_network_reads_digits_and_is_small() -> None:
    net = load_pretrained()
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert not net.training
    _, _, images, labels = load_digits_tensors()
    assert accuracy(net, images, labels) > 99.5
    assert WEIGHTS_PATH.stat().st_size < 3e6


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match="pip install scikit-learn"):
        load_digits_tensors()
