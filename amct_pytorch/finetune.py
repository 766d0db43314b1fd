"""Parts of a fine-tuning loop: distillation from the original model, and the parameters of the decomposed layers."""

from __future__ import annotations

from ._finetune.distillation import Distillation, distillation_loss, response_loss
from ._finetune.trained_parameters import others_frozen, parameter_groups

__all__ = ["Distillation", "distillation_loss", "others_frozen", "parameter_groups", "response_loss"]
