"""The VAE of a diffusers pipeline, decomposed, saved, and put into the pipeline again."""

from diffusers import AutoencoderKL

from amct_pytorch.checkpoint import load_decomposed, save_decomposed
from amct_pytorch.tensor_decompose import auto_decomposition

vae = AutoencoderKL.from_pretrained("pretrained", subfolder="vae")
vae, changes = auto_decomposition(vae)
save_decomposed(vae, "decomposed")

# Elsewhere: the model is built from its configuration, and its weights are those of the checkpoint.
again = AutoencoderKL.from_config(AutoencoderKL.load_config("pretrained", subfolder="vae"))
again, _ = load_decomposed(again.eval(), "decomposed")
# pipeline = DiffusionPipeline.from_pretrained("pretrained", vae=again)
