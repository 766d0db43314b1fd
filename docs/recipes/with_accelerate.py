"""A decomposed model trained by a loop of one's own with accelerate, on any number of devices.

accelerate launch with_accelerate.py
"""

import copy

import torch
from accelerate import Accelerator
from data import loader  # batches (images, labels) of your own
from net import Net  # the model before decomposition
from torch import nn

from amct_pytorch.checkpoint import save_decomposed
from amct_pytorch.finetune import Distillation, parameter_groups
from amct_pytorch.tensor_decompose import auto_decomposition

accelerator = Accelerator()
original = Net().to(accelerator.device)
net, changes = auto_decomposition(copy.deepcopy(original))  # before prepare, which may wrap the model
optimizer = torch.optim.AdamW(parameter_groups(net, lr=1e-3), lr=1e-4)
wrapped, optimizer, batches = accelerator.prepare(net, optimizer, loader)

with Distillation(original, accelerator.unwrap_model(wrapped)) as distillation:
    for _ in range(2):
        wrapped.train()
        for images, labels in batches:
            outputs = wrapped(images)
            loss = nn.functional.cross_entropy(outputs, labels) + distillation.loss(outputs)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

if accelerator.is_main_process:
    save_decomposed(accelerator.unwrap_model(wrapped), "decomposed")
