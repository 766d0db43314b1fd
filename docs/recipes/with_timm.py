"""A model of timm, decomposed, saved, and loaded again."""

import timm

from amct_pytorch.checkpoint import load_decomposed, save_decomposed
from amct_pytorch.tensor_decompose import auto_decomposition

net = timm.create_model("resnet10t", checkpoint_path="pretrained.pth").eval()
net, changes = auto_decomposition(net)
save_decomposed(net, "decomposed")

# Elsewhere: not by checkpoint_path=…, which knows the structure of timm alone.
again, _ = load_decomposed(timm.create_model("resnet10t").eval(), "decomposed")
