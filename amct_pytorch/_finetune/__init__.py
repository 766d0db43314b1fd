"""Parts of a fine-tuning loop: distillation, and what is trained."""
