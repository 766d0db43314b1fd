"""The recipes of docs/recipes.md with the trainers of others, each run as it stands, on small networks and data."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from amct_pytorch.tensor_decompose import DecomposedConv2d

from .documents import recipes
from .models import chains, image

pytestmark = pytest.mark.slow

_RECIPES = recipes()

# What the recipes import as the user's own.
_NET = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(64, 3))
"""
_DATA = """
import torch
from torch.utils.data import DataLoader, TensorDataset

draw = torch.Generator().manual_seed(0)
images, labels = torch.randn(32, 1, 8, 8, generator=draw), torch.randint(3, (32,), generator=draw)
loader = DataLoader(TensorDataset(images, labels), 8)
dataset = [{"pixel_values": image.expand(3, 8, 8), "labels": label} for image, label in zip(images, labels)]
"""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(_NET)
    (tmp_path / "data.py").write_text(_DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("net", "data"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def _run(name: str) -> dict[str, Any]:
    Path(f"with_{name}.py").write_text(_RECIPES[name], encoding="utf-8")
    return runpy.run_path(f"with_{name}.py")


def test_every_recipe_that_the_page_marks_has_a_test() -> None:
    assert _RECIPES
    assert {f"test_{name}" for name in _RECIPES} <= set(globals())


def _same(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.detach(), second.detach())


def test_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128], depths=[1, 1], layer_type="basic", num_labels=5
    )
    transformers.ResNetForImageClassification(config).save_pretrained("pretrained")
    names = _run("transformers")
    assert chains(names["again"]).keys() == names["changes"].keys()
    states = [names[name].state_dict() for name in ("net", "again")]
    assert states[0].keys() == states[1].keys()
    assert all(_same(value, states[1][name]) for name, value in states[0].items())
    inputs = image(1, 3, 32, 32)
    # What the recipe is there for: the class itself finds no weights for the layers that were decomposed.
    _, loading = transformers.ResNetForImageClassification.from_pretrained("decomposed", output_loading_info=True)
    assert {name.rpartition(".")[0] for name in loading["missing_keys"]} == names["changes"].keys()
    # Not bit for bit, as transformers loads weights in another memory format.
    assert torch.allclose(names["again"].eval()(inputs).logits, names["net"].eval()(inputs).logits, atol=1e-5)


def test_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    diffusers.AutoencoderKL(block_out_channels=[64, 64], **blocks).save_pretrained("pretrained/vae")
    names = _run("diffusers")
    assert chains(names["again"]).keys() == names["changes"].keys()
    inputs = image(1, 3, 32, 32)
    assert _same(names["again"].eval()(inputs).sample, names["vae"].eval()(inputs).sample)


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet10t").state_dict(), "pretrained.pth")
    names = _run("timm")
    assert chains(names["again"]).keys() == names["changes"].keys()
    inputs = image(1, 3, 64, 64)
    assert _same(names["again"](inputs), names["net"](inputs))


def test_lightning() -> None:
    pytest.importorskip("lightning")
    names = _run("lightning")
    assert names["changes"]
    trained, again = names["module"].net, names["again"].net
    inputs = image(2, 1, 8, 8)
    assert _same(again.eval()(inputs), trained.eval()(inputs))
    before = torch.load("decomposed.pth")
    assert not _same(before["2.0.weight"], trained.state_dict()["2.0.weight"])


def test_accelerate() -> None:
    pytest.importorskip("accelerate")
    from amct_pytorch.checkpoint import load_decomposed

    names = _run("accelerate")
    again, changes = load_decomposed(names["Net"](), "decomposed")
    assert changes == names["changes"] == {"2": ["2.0", "2.1"]}
    inputs = image(2, 1, 8, 8)
    assert _same(again.eval()(inputs), names["net"].eval()(inputs))


def test_trainer() -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from amct_pytorch.checkpoint import load_decomposed

    config = transformers.ResNetConfig(
        embedding_size=64, hidden_sizes=[64], depths=[1], layer_type="basic", num_labels=3
    )
    transformers.ResNetForImageClassification(config).save_pretrained("pretrained")
    names = _run("trainer")
    assert names["trainer"].state.global_step == 4
    again, changes = load_decomposed(transformers.ResNetForImageClassification(config), "decomposed")
    assert changes == names["changes"]
    assert chains(again)
    inputs = image(2, 3, 8, 8)
    assert _same(again.eval()(inputs).logits, names["net"].eval()(inputs).logits)


def _detection_data() -> None:
    """Four pictures with a square each, for training and validation."""
    from PIL import Image

    for kind in ("images", "labels"):
        Path("set", kind).mkdir(parents=True)
    draw = torch.Generator().manual_seed(0)
    for number in range(4):
        pixels = torch.randint(256, (64, 64, 3), generator=draw, dtype=torch.uint8)
        pixels[16:48, 16:48] = 255
        Image.fromarray(pixels.numpy()).save(f"set/images/{number}.png")
        Path(f"set/labels/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    Path("image.png").write_bytes(Path("set/images/0.png").read_bytes())
    Path("data.yaml").write_text(f"path: {Path.cwd() / 'set'}\ntrain: images\nval: images\nnames: {{0: square}}\n")


def test_ultralytics() -> None:
    ultralytics = pytest.importorskip("ultralytics")
    _detection_data()
    ultralytics.YOLO("yolov8n.yaml").save("pretrained.pt")
    names = _run("ultralytics")
    structure = {name for name, module in names["again"].model.named_modules() if isinstance(module, DecomposedConv2d)}
    assert structure == names["changes"].keys()
    assert names["metrics"].box.map >= 0
    assert len(names["results"]) == 1
    assert Path(names["exported"]).is_file()
    inputs = image(1, 3, 64, 64).abs()
    with torch.no_grad():
        expected, found = (names[name].model.float().eval()(inputs)[0] for name in ("yolo", "again"))
    assert float((expected - found).abs().max() / expected.abs().max()) < 1e-2  # it is saved in float16
