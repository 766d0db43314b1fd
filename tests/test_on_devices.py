"""The conformance kit and the whole path of a user, on every kind of device: ``pytest -m cuda``, ``pytest -m npu``."""

from __future__ import annotations

import copy
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from torch import nn

from amct_pytorch.backend import GROUP, Backend, get_backend, list_backends
from amct_pytorch.backend_testing import BackendConformance
from amct_pytorch.benchmark import benchmark
from amct_pytorch.errors import ConfigError
from amct_pytorch.tensor_decompose import auto_decomposition, decompose_network, plan_decomposition
from amct_pytorch.validate import validate

from .models import TwoConvs, chains, image, snapshot

BACKENDS = {point.name: point.load() for point in entry_points(group=GROUP)}


class EndToEnd:
    """Decompose, validate, benchmark, train, save, and rebuild on a device."""

    name: str

    @pytest.fixture
    def backend(self) -> Backend:
        status = next(status for status in list_backends() if status.name == self.name)
        if not status.available:
            pytest.skip(str(status))
        return get_backend(self.name)

    def test_a_model_on_the_device_is_decomposed_there_as_on_the_host(self, backend: Backend) -> None:
        device = backend.device()
        on_host, _ = auto_decomposition(TwoConvs_seeded())
        with backend.prepared(device):
            net = TwoConvs_seeded().to(device)
            plan = plan_decomposition(net, example_inputs=image().to(device))
            net, changes = plan.apply(net)
        assert list(changes) == ["conv1", "conv2"]
        assert plan.layers[1].macs is not None
        assert all(parameter.device == device for parameter in net.parameters())
        for key, value in on_host.state_dict().items():
            assert torch.equal(net.state_dict()[key].cpu(), value), key

    def test_validation_finds_the_device_right_in_every_type(self, backend: Backend) -> None:
        original = TwoConvs_seeded().eval()
        decomposed, _ = auto_decomposition(copy.deepcopy(original))
        unchanged = [snapshot(original), snapshot(decomposed)]
        dtypes = backend.devices()[0].dtypes
        report = validate(original, decomposed, image(), backend, dtypes=dtypes)
        assert report.ok, str(report)
        assert [run.dtype for run in report.runs] == list(dtypes)
        for run in report.runs:
            assert [layer.name for layer in run.layers] == ["conv1", "conv2"]
            assert all(0 < layer.response_error < 1 for layer in run.layers)
            assert 0 < run.output_error < 1
            assert run.top1_agreement is not None
        for check in unchanged:
            check()

    def test_a_benchmark_measures_and_leaves_the_models_alone(self, backend: Backend) -> None:
        original = TwoConvs_seeded().eval()
        decomposed, _ = auto_decomposition(copy.deepcopy(original))
        unchanged = [snapshot(original), snapshot(decomposed)]
        report = benchmark(original, decomposed, image(1, 3, 16, 16), backend, batch_sizes=[2])
        (run,) = report.runs
        assert report.device == backend.devices()[0]
        assert (run.dtype, run.batch_size) == (torch.float32, 2)
        assert [layer.name for layer in run.layers] == ["conv1", "conv2"]
        for comparison in [run.model, *(layer.comparison for layer in run.layers)]:
            assert comparison is not None
            assert 0 < comparison.before.lower_quartile <= comparison.before.median <= comparison.before.upper_quartile
            assert comparison.doubt or comparison.speed_up.low <= comparison.speed_up.ratio <= comparison.speed_up.high
        assert run.peak_memory is not None
        assert run.peak_memory > sum(parameter.nbytes for parameter in original.parameters())
        for check in unchanged:
            check()

    def test_recorded_kernels_are_those_of_the_work(self, backend: Backend) -> None:
        device = backend.device()
        conv, x = torch.nn.Conv2d(64, 64, 3).to(device), image(8, 64, 56, 56).to(device)
        if not backend.records_kernels:
            with pytest.raises(ConfigError, match="records no kernels"):
                backend.kernels(lambda: conv(x), device=device)
            return
        with torch.no_grad():
            kernels = backend.kernels(lambda: conv(x), device=device, calls=3)
            spent = 3 * backend.time(lambda: conv(x), device=device, calls=3)
        worked = sum(kernel.seconds for kernel in kernels if kernel.kind in ("convolution", "matrix product"))
        assert spent / 100 < worked < 3 * spent

    def test_the_decomposed_model_trains_as_on_the_host(self, backend: Backend) -> None:
        device = backend.device()
        with backend.prepared(device), backend.exact_numerics(device):
            losses = [_train(auto_decomposition(TwoConvs_seeded())[0], place) for place in ("cpu", device)]
        assert losses[0][-1] < losses[0][0]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)

    def test_autocast_runs_forward_and_backward(self, backend: Backend) -> None:
        device = backend.device()
        dtype = torch.bfloat16 if torch.bfloat16 in backend.devices()[0].dtypes else torch.float16
        with backend.prepared(device):
            net = auto_decomposition(TwoConvs_seeded())[0].to(device)
            with torch.autocast(device.type, dtype=dtype):
                output = net(image().to(device))
            output.float().square().mean().backward()
        assert output.dtype == dtype
        for chain in chains(net).values():
            assert all(bool(stage.weight.grad.cpu().isfinite().all()) for stage in chain)

    def test_what_is_saved_on_the_device_is_rebuilt_bit_for_bit(self, backend: Backend, tmp_path: Path) -> None:
        device = backend.device()
        with backend.prepared(device):
            net, _ = auto_decomposition(TwoConvs_seeded().to(device).eval(), tmp_path / "info.json")
            torch.save({key: value.cpu() for key, value in net.state_dict().items()}, tmp_path / "weights.pth")
            rebuilt, _ = decompose_network(TwoConvs_seeded().to(device), tmp_path / "info.json")
            rebuilt.load_state_dict(torch.load(tmp_path / "weights.pth"))
            with torch.no_grad():
                outputs = [model.eval()(image().to(device)).cpu() for model in (net, rebuilt)]
        assert torch.equal(*outputs)


def TwoConvs_seeded() -> TwoConvs:  # noqa: N802  # stands for the class
    torch.manual_seed(3)
    return TwoConvs()


def _train(net: nn.Module, device: torch.device | str) -> list[float]:
    net = net.to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    images, labels = image(8, 3, 16, 16).to(device), (torch.arange(8) % 10).to(device)
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class TestCpuConformance(BackendConformance):
    backend = BACKENDS["cpu"]


class TestCpu(EndToEnd):
    name = "cpu"


@pytest.mark.cuda
class TestCudaConformance(BackendConformance):
    backend = BACKENDS["cuda"]


@pytest.mark.cuda
class TestCuda(EndToEnd):
    name = "cuda"


@pytest.mark.npu
class TestNpuConformance(BackendConformance):
    backend = BACKENDS["npu"]


@pytest.mark.npu
class TestNpu(EndToEnd):
    name = "npu"
