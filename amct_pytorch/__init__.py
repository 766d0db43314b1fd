"""Tensor decomposition of PyTorch networks, for Ascend NPUs, CUDA GPUs and CPUs."""
