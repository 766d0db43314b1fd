"""Tensor decomposition of PyTorch networks, for Ascend NPUs, CUDA GPUs and CPUs."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}: this package decomposes models, and its functions are in "
        "amct_pytorch.tensor_decompose, .benchmark, .validate, .checkpoint, .export, .ascend and .finetune, which are "
        "imported by these names; Huawei's AMCT for quantisation, pruning and distillation has the same name: install "
        "it in another environment, and give it the decomposed model there"
    )
