"""amct_pytorch: tensor decomposition for PyTorch CNNs, made for Ascend NPUs and just as good on CPU and CUDA."""
