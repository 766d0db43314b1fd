"""What torch_npu says of operators that run on the CPU, and when it says nothing."""

from __future__ import annotations

import os
import warnings

import pytest
from amct_backends import npu_fallbacks


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (
            "[W1126 16:07:31.079908598 VariableFallbackKernel.cpp:230] Warning: CAUTION: The operator "
            "'aten::_linalg_eigh.eigenvalues' is not currently supported on the NPU backend and will fall back to run "
            "on the CPU. This may have performance implications. (function npu_cpu_fallback)",
            ["aten::_linalg_eigh.eigenvalues"],
        ),
        (
            "CAUTION: The operator aten::logit, aten::logit_ and aten::logit.out is currently not supported on "
            "the NPU backend. Now this operator will fallback to run on the CPU and may have performance implications.",
            ["aten::logit", "aten::logit_", "aten::logit.out"],
        ),
        (
            "Warning: Warning: kernel [sinc] is not supported by NPU currently. Now this kernel is running on CPU.",
            ["aten::sinc"],
        ),
        (
            "Warning: kernel [gcd.out] is not supported by NPU currently.Now this kernel is running on CPU.",
            ["aten::gcd.out"],
        ),
        (
            "adaptive_max_pool3d is not supported by NPU currently. Now this kernel is running on CPU. (Triggered ...)",
            ["aten::adaptive_max_pool3d"],
        ),
        (
            "CPU fallback is allowed because TORCH_NPU_FALLBACK_CPU_DISABLE=0. Since the NPU interface does not "
            "support operator 'aten::_sparse_csr_sum.dim_dtype', the operator will fall back to CPU.",
            ["aten::_sparse_csr_sum.dim_dtype"],
        ),
        ("Now it is running on CPU.", ["Now it is running on CPU."]),
        ("LSTM fallback to acl_op because params size does not meet aclnn requirements.", []),
        ("Sub comm derivation failed in createHCCLCommOrigin, fallback to rootinfo.", []),
        ("Fall back to aclrtGetMemInfo. Please upgrade the driver to the matching version.", []),
        ("Warning: Cannot create tensor with internal format while allow_internal_format=False", []),
        ("", []),
    ],
)
def test_operators_are_named_in_every_form_of_the_message(message: str, names: list[str]) -> None:
    assert npu_fallbacks.operators_in(message) == names


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"TORCH_NPU_WARNING_DISABLE": "1"},
            "were not watched: TORCH_NPU_WARNING_DISABLE=1 silences torch_npu: unset it",
        ),
        ({"TORCH_NPU_DISABLED_WARNING": "1"}, "TORCH_NPU_DISABLED_WARNING=1 silences torch_npu"),
        ({"TORCH_NPU_WARNING_DISABLE": "0", "TORCH_NPU_DISABLED_WARNING": "1"}, "run once with"),
        ({"TORCH_NPU_WARNING_DISABLE": "true"}, "run once with"),
        ({"RANK": "3"}, "only the first reports them, and this one has RANK=3"),
        ({"RANK": "0"}, "run once with TORCH_NPU_FALLBACK_CPU_DISABLE=1, set before Python starts"),
        ({"TORCH_CPP_LOG_LEVEL": "error"}, "TORCH_CPP_LOG_LEVEL=error silences them"),
        ({"TORCH_CPP_LOG_LEVEL": "2"}, "TORCH_CPP_LOG_LEVEL=2 silences them"),
        ({"TORCH_CPP_LOG_LEVEL": "INFO"}, "run once with"),
        ({}, "run once with TORCH_NPU_FALLBACK_CPU_DISABLE=1"),
        ({"TORCH_NPU_FALLBACK_CPU_DISABLE": "0"}, "run once with"),
        ({"TORCH_NPU_FALLBACK_CPU_DISABLE": "1"}, None),
        ({"TORCH_NPU_FALLBACK_CPU_DISABLE": "1", "TORCH_NPU_WARNING_DISABLE": "1"}, "were not watched"),
    ],
)
def test_the_report_says_what_may_have_gone_unseen(environment: dict[str, str], says: str | None) -> None:
    caution = npu_fallbacks.caution(environment)
    assert (says is None) == (caution is None)
    assert says is None or says in str(caution)


_SAID = "Warning: kernel [polar] is not supported by NPU currently. Now this kernel is running on CPU."


def test_what_is_said_by_a_warning_counts_as_well_as_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        with npu_fallbacks.watched() as names:
            warnings.warn(_SAID, stacklevel=1)
            os.write(2, b"CAUTION: The operator 'aten::sinc' will fall back to run on the CPU.\n")
            warnings.warn("of another kind", stacklevel=1)
            warnings.warn(_SAID, stacklevel=1)
    assert names == ["aten::sinc", "aten::polar"]
    assert [str(warning.message) for warning in caught] == ["of another kind", _SAID, _SAID]
    assert {warning.filename for warning in caught} == {__file__}
    assert "aten::sinc" in capfd.readouterr().err


def test_the_users_filters_decide_what_he_sees_not_what_is_named() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        filters = warnings.filters[:]
        with npu_fallbacks.watched() as names:
            warnings.warn(_SAID, stacklevel=1)
            warnings.warn("of another kind", stacklevel=1)
        assert warnings.filters == filters
        assert caught == []
    assert names == ["aten::polar"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="polar"), npu_fallbacks.watched() as names:
            warnings.warn(_SAID, stacklevel=1)
    assert names == ["aten::polar"]


def test_after_an_exception_the_filters_are_the_users_again() -> None:
    show, filters = warnings.showwarning, warnings.filters[:]
    with pytest.raises(KeyboardInterrupt), npu_fallbacks.watched():
        raise KeyboardInterrupt
    assert (warnings.showwarning, warnings.filters[:]) == (show, filters)
