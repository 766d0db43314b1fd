"""A detector of Ultralytics, decomposed, trained back, validated and exported by its own commands."""

from typing import Any

from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

from amct_pytorch.tensor_decompose import auto_decomposition

yolo = YOLO("pretrained.pt")
yolo.model, changes = auto_decomposition(yolo.model)
decomposed = yolo.model


class FineTuning(DetectionTrainer):
    """Trains the decomposed model, where Ultralytics would build a new one of the original structure."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        """The model to train."""
        return decomposed


yolo.train(trainer=FineTuning, data="data.yaml", epochs=1, imgsz=64, amp=False, plots=False)
metrics = yolo.val(data="data.yaml", imgsz=64, plots=False)
results = yolo.predict("image.png", imgsz=64)
exported = yolo.export(format="torchscript", imgsz=64)
yolo.save("decomposed.pt")  # the whole model, pickled: YOLO("decomposed.pt") has the structure

again = YOLO("decomposed.pt")
