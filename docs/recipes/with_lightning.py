"""A decomposed model trained by Lightning, and loaded from its checkpoint."""

import lightning
import torch
from data import loader  # batches (images, labels) of your own
from net import Net  # the model before decomposition
from torch import Tensor, nn

from amct_pytorch.finetune import parameter_groups
from amct_pytorch.tensor_decompose import auto_decomposition, decompose_network

INFO, WEIGHTS = "decompose_info.json", "decomposed.pth"

net, changes = auto_decomposition(Net(), INFO)
torch.save(net.state_dict(), WEIGHTS)


class FineTuning(lightning.LightningModule):
    """The decomposed model, which has its structure before Lightning loads weights into it."""

    def __init__(self) -> None:
        super().__init__()
        self.net, _ = decompose_network(Net(), INFO)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The decomposed layers learn faster than the others."""
        return torch.optim.AdamW(parameter_groups(self.net, lr=1e-3), lr=1e-4)


module = FineTuning()
module.net.load_state_dict(torch.load(WEIGHTS))
trainer = lightning.Trainer(max_epochs=1, accelerator="auto", enable_progress_bar=False)
trainer.fit(module, loader)
trainer.save_checkpoint("tuned.ckpt")

again = FineTuning.load_from_checkpoint("tuned.ckpt")
