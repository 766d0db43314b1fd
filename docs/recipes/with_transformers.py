"""A model of transformers, decomposed, saved by save_pretrained, and loaded again by from_pretrained."""

from transformers import PretrainedConfig, ResNetForImageClassification

from amct_pytorch.tensor_decompose import auto_decomposition, decompose_network

net = ResNetForImageClassification.from_pretrained("pretrained")
net, changes = auto_decomposition(net, "decomposed/decompose_info.json")
net.save_pretrained("decomposed")


class Decomposed(ResNetForImageClassification):
    """The model with the structure that the information file describes."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        decompose_network(self, "decomposed/decompose_info.json")


again = Decomposed.from_pretrained("decomposed")
