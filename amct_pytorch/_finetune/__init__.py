"""Parts of a fine-tuning loop: distillation, and the choice of trained parameters."""
