"""A simulated Ascend NPU, to run code for the `npu` device without hardware. For the tests only.

When imported, also as a pytest plugin (``pytest -p tests.simulated_npu``), it registers the device `npu` for the rest
of the process and replaces the module torch_npu. It cannot share a process with the real one.

It simulates

- tensors on the device: tensors that report npu:0 as their device, with their values in host memory. Every operator
  of torch runs, with autograd, autocast, hooks, copies and torch.save; mixing devices is an error;
- asynchronous execution: an operator keeps the device busy for `SLOWDOWN` times as long as it took on the host, while
  the host continues. Synchronising, or copying to the host, waits. Events use the device's clock, so a measurement
  that does not wait for the work shows a wrong time;
- memory as the caching allocator counts it, in blocks of 512 bytes, and running out of it;
- HF32: operands of float32 convolutions are rounded to 11 significant bits while torch.npu.conv.allow_hf32 is True,
  the default. `chip.float32` selects a device without any other float32;
- errors for float64 convolutions, and for tensors in the channels_last format;
- torch_npu's profiler, which writes kernel_details.csv in its layout: each operator is a kernel, and a convolution has
  conversions of formats beside it, as on Atlas A2;
- operators that the device lacks and that run on the CPU, each with torch_npu's warning, once per process, written to
  standard error and not through Python's warnings.

It does not simulate streams, more than one device, torch.compile, workspaces of operators, torch.accelerator, or
``parameter.data = tensor`` from one device to another; nn.Module still moves its parameters as the same objects. A
parameter's type on the device is NpuTensor, which isinstance accepts as nn.Parameter.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import importlib.machinery
import multiprocessing
import os
import sys
import time
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

SLOWDOWN = 3.0
"""Time that an operator takes on the device, over that on the host."""

_GIB = 2**30
_HOST = torch.device("cpu")


@dataclasses.dataclass
class Chip:
    """The simulated device; tests may change it at any time.

    Attributes
    ----------
    name
        Name of the chip, as torch.npu.get_device_name() returns it; from the environment variable SIMULATED_NPU_NAME.
    total_memory
        Memory in bytes.
    cache
        Size of the last-level cache in bytes; far below the 192 MiB of a real chip, as benchmarks overwrite it often.
    float32
        Float32 convolution with HF32 disabled: "exact", in "hf32" anyway, or it "fails".
    """

    name: str = os.environ.get("SIMULATED_NPU_NAME", "Ascend910B3")
    total_memory: int = 64 * _GIB
    cache: int = 2**20
    float32: str = "exact"


class Clock:
    """The device's clock: the host time, in seconds, at which all work queued so far will have finished."""

    def __init__(self) -> None:
        self.done = 0.0

    def queue(self, moment: float, seconds: float) -> None:
        """Queue work of this duration, launched at this moment: it starts then, or after all earlier work."""
        self.done = max(self.done, moment) + seconds

    @staticmethod
    def wait_until(moment: float) -> None:
        """Block the host until that time."""
        time.sleep(max(moment - time.perf_counter(), 0.0))


class Memory:
    """The caching allocator's statistics, in bytes."""

    def __init__(self) -> None:
        self.allocated = self.peak = 0
        self._blocks: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()

    def block_of(self, host: torch.Tensor) -> Block:
        """The block of a tensor's storage; a new one if it has none yet."""
        storage = host.untyped_storage()
        block = self._blocks.get(storage.data_ptr()) if storage.nbytes() else None
        if block is None:
            block = Block(self, storage.nbytes())
            if storage.nbytes():
                self._blocks[storage.data_ptr()] = block
        return block

    def check(self, size: int) -> None:
        """Whether there is a place for a block.

        Raises
        ------
        torch.OutOfMemoryError
            There is none.
        """
        if self.allocated + size > chip.total_memory:
            raise torch.OutOfMemoryError(
                f"NPU out of memory. Tried to allocate {size / _GIB:.2f} GiB (NPU 0; {chip.total_memory / _GIB:.2f} "
                f"GiB total capacity; {self.allocated / _GIB:.2f} GiB already allocated)"
            )

    def take(self, size: int) -> None:
        """Add a block to the statistics."""
        self.check(size)
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

    def give_back(self, size: int) -> None:
        """Remove a block from the statistics."""
        self.allocated -= size


class Block:
    """Memory of one storage, counted while a tensor refers to it."""

    def __init__(self, memory: Memory, nbytes: int) -> None:
        size = -(-nbytes // 512) * 512
        memory.take(size)
        weakref.finalize(self, memory.give_back, size).atexit = False


class NpuTensor(torch.Tensor):
    """A tensor that reports npu:0 as its device, around a host tensor with its values."""

    host: torch.Tensor
    block: Block

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> NpuTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device("npu", 0),
        )
        tensor.host = host
        tensor.block = memory.block_of(host)
        return tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> NpuTensor:
        if id(self) not in memo:
            copied = NpuTensor(self.host.clone()).requires_grad_(self.requires_grad)
            vars(copied).update({key: value for key, value in vars(self).items() if key not in vars(copied)})
            memo[id(self)] = copied
        return memo[id(self)]

    def __repr__(self) -> str:
        return repr(self.host)[:-1] + ", device='npu:0')"

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """Pickle by value; torch.load restores it to map_location, or to the device."""
        if isinstance(self, torch.nn.Parameter):
            return torch._utils._rebuild_parameter, (self.detach(), self.requires_grad, OrderedDict())
        rebuild = torch._utils._rebuild_device_tensor_from_cpu_tensor
        return rebuild, (self.detach().cpu(), self.dtype, str(self.device), self.requires_grad)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is torch.Tensor.numpy:
                raise TypeError("can't convert npu:0 device type tensor to numpy. Use Tensor.cpu() first.")
            if func is torch.Tensor.tolist:
                return args[0].detach().cpu().tolist()
            if func in (torch.Tensor.data_ptr, torch.Tensor.untyped_storage):
                return func(args[0].host)  # only the host's storage has an address
            if func is torch.Tensor.data.__set__ and all(isinstance(arg, NpuTensor) for arg in args):
                tensor, value = args
                tensor.host, tensor.block = value.host, value.block
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _swap_tensors(one: torch.Tensor, other: torch.Tensor) -> None:
    """``one.data = other``, also across devices. Replaces torch's setter, which refuses while a graph is alive."""
    one.__class__, other.__class__ = other.__class__, one.__class__
    inner = [
        {key: vars(tensor).pop(key) for key in ("host", "block", "_is_param") if key in vars(tensor)}
        for tensor in (one, other)
    ]
    vars(one).update(inner[1])
    vars(other).update(inner[0])
    torch._C._swap_tensor_impl(one, other)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operator on the device."""
    if _is_composite(func):  # in inference mode it comes here before it is taken to pieces
        return func.decompose(*args, **kwargs)
    name, leaves = func._schema.name, tree_leaves((args, kwargs))
    _check(name, leaves, kwargs)
    host_args, host_kwargs = tree_map(_on_host, (args, kwargs))
    draws = npu.own_generator() if torch.Tag.nondeterministic_seeded in func.tags else contextlib.nullcontext()
    with draws:
        begin = time.perf_counter()
        results = func(*_in_hf32(name, host_args), **host_kwargs)
    if not func.is_view:
        seconds = SLOWDOWN * (time.perf_counter() - begin)
        profiler.record(name, host_args, max(clock.done, begin), seconds)
        clock.queue(begin, seconds)
    target = args[0] if name == "aten::copy_" else kwargs.get("device", torch.device("npu"))
    to_host = _is_host(target.device if isinstance(target, torch.Tensor) else target)
    if to_host or not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}.isdisjoint(func.tags):
        clock.wait_until(clock.done)
    if to_host:
        return results
    given = {id(leaf.host): leaf for leaf in leaves if isinstance(leaf, NpuTensor)}  # and again from operators in place

    def on_device(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) not in given:
            return NpuTensor(leaf)
        tensor = given[id(leaf)]
        if (tensor.shape, tensor.stride()) != (leaf.shape, leaf.stride()):
            tensor.data = NpuTensor(leaf)  # takes the new shape
        return tensor

    return tree_map(on_device, results)


@functools.cache
def _is_composite(func: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _is_host(device: torch.device | None) -> bool:
    return device is not None and device.type == "cpu"


def _on_host(leaf: Any) -> Any:
    if isinstance(leaf, NpuTensor):
        return leaf.host
    return _HOST if isinstance(leaf, torch.device) else leaf


_COPIES = {"aten::_to_copy", "aten::copy_"}
_TAKES_INDICES_OF_THE_HOST = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}
_CONVOLUTIONS = {"aten::convolution", "aten::convolution_backward", "aten::convolution_overrideable"}
_WITHOUT_KERNEL = {"aten::linalg_matrix_exp", "aten::_linalg_eigh", "aten::linalg_cholesky_ex", "aten::lgamma"}
_warned: set[str] = set()


def _check(name: str, leaves: list[Any], kwargs: dict[str, Any]) -> None:
    """Raise the device's errors, and report the operators that fall back to the CPU."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    if any(device.type == "npu" and device.index not in (None, 0) for device in devices):
        raise RuntimeError(f"Invalid device ID: {devices}, valid device_index range is [0, 1)")
    # Numbers may be on the host.
    if name not in _COPIES | _TAKES_INDICES_OF_THE_HOST and any(
        tensor.dim() > 0 and not isinstance(tensor, NpuTensor) for tensor in tensors
    ):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, npu:0 and cpu! ({name})"
        )
    if kwargs.get("memory_format") in (torch.channels_last, torch.channels_last_3d) and not _is_host(
        kwargs.get("device")
    ):
        raise RuntimeError("Only contiguous_format or preserve_format is supported.")
    if name in _CONVOLUTIONS:
        dtype = tensors[0].dtype
        if dtype == torch.float64:
            raise RuntimeError("Tensor self not implemented for DT_DOUBLE, should be in dtype support list [DT_FLOAT,"
                               "DT_FLOAT16,DT_BFLOAT16].")  # fmt: skip
        if dtype == torch.float32 and chip.float32 == "fails" and not npu.conv.allow_hf32:
            raise RuntimeError("Conv2D: float32 without HF32 is not supported on this device.")
    if name in _WITHOUT_KERNEL and name not in _warned:
        _warned.add(name)
        line = (
            f"[W VariableFallbackKernel.cpp:230] Warning: CAUTION: The operator '{name}' is not currently supported on "
            "the NPU backend and will fall back to run on the CPU. This may have performance implications. "
            "(function npu_cpu_fallback)\n"
        )
        os.write(2, line.encode())


# Which of the arguments are factors of products.
_FACTORS = {
    **dict.fromkeys(["aten::convolution", "aten::convolution_overrideable"], (0, 1)),
    "aten::convolution_backward": (0, 1, 2),
    **dict.fromkeys(["aten::mm", "aten::bmm"], (0, 1)),
    **dict.fromkeys(["aten::addmm", "aten::baddbmm"], (1, 2)),
}


def _in_hf32(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments after rounding by the device's arithmetic."""
    if name in _CONVOLUTIONS:
        hf32 = npu.conv.allow_hf32 or chip.float32 == "hf32"
    else:
        hf32 = name in _FACTORS and npu.matmul.allow_hf32
    if not hf32:
        return args
    return tuple(_round_to_hf32(arg) if place in _FACTORS[name] else arg for place, arg in enumerate(args))


def _round_to_hf32(values: torch.Tensor) -> torch.Tensor:
    """float32 rounded to 11 significant bits, ties to even: 10 of its 23 bits after the point stay."""
    if values.dtype != torch.float32:
        return values
    bits = values.view(torch.int32)
    rounded = (bits >> 13).bitwise_and_(1).add_(bits).add_(0xFFF).bitwise_and_(~0x1FFF)
    return torch.where(values == values, rounded.view(torch.float32), values)  # a NaN stays one


class Event:
    """torch.npu.Event, on the device's clock."""

    def __init__(self, enable_timing: bool = False, **_: object) -> None:
        self._timed = enable_timing
        self._moment: float | None = None

    def record(self, stream: object = None) -> None:
        """Record the time at which all work queued so far will have finished."""
        self._moment = max(clock.done, time.perf_counter())

    def query(self) -> bool:
        """Whether the recorded time has passed."""
        return self._moment is None or self._moment <= time.perf_counter()

    def synchronize(self) -> None:
        """Wait until the recorded time."""
        clock.wait_until(self._moment or 0.0)

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to the other."""
        if self._moment is None or end._moment is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        if not (self._timed and end._timed):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        end.synchronize()
        return (end._moment - self._moment) * 1e3


_CANN_OPERATORS = {"convolution": "Conv2D", "addmm": "MatMulV2", "mm": "MatMulV2", "mean": "ReduceMean"}
_KERNEL_COLUMNS = [
    *("Device_id", "Model ID", "Task ID", "Stream ID", "Name", "Type", "OP State", "Accelerator Core"),
    *("Start Time(us)", "Duration(us)", "Wait Time(us)", "Block Num", "Mix Block Num", "HF32 Eligible"),
    *("Input Shapes", "Input Data Types", "Input Formats"),
]


class Profiler(types.ModuleType):
    """torch_npu.profiler: it writes the kernels of a block to a table; like the real one it changes multiprocessing."""

    ExportType = types.SimpleNamespace(Text="text")
    ProfilerLevel = types.SimpleNamespace(Level1="Level1")

    def __init__(self) -> None:
        super().__init__("torch_npu.profiler")
        self.fails = False
        self._rows: list[list[object]] | None = None

    def _ExperimentalConfig(self, **settings: object) -> dict[str, object]:  # noqa: N802  # torch_npu's name
        return settings

    def tensorboard_trace_handler(self, folder: str) -> str:
        return folder

    @contextlib.contextmanager
    def profile(self, *, on_trace_ready: str, experimental_config: dict[str, object]) -> Iterator[None]:
        """Record a block, and write its table unless `fails`."""
        assert experimental_config == {"export_type": "text", "profiler_level": "Level1"}
        self._rows = rows = []
        try:
            yield
        finally:
            self._rows = None
            multiprocessing.set_start_method("fork", force=True)
        if self.fails:
            print("[ERROR] the data cannot be parsed")
            return
        folder = Path(on_trace_ready) / f"host_{os.getpid()}_20260101000000000_ascend_pt" / "ASCEND_PROFILER_OUTPUT"
        folder.mkdir(parents=True)
        with (folder / "kernel_details.csv").open("w", newline="") as file:
            csv.writer(file).writerows([_KERNEL_COLUMNS, *rows])

    def record(self, name: str, args: tuple[Any, ...], start: float, seconds: float) -> None:
        """Add the kernels of an operator."""
        if self._rows is None:
            return
        operator = name.removeprefix("aten::").removesuffix("_")
        kind = _CANN_OPERATORS.get(operator, operator.capitalize())
        kinds = ["TransData", kind, "TransData"] if kind == "Conv2D" else [kind]
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        hf32 = "YES" if kind == "Conv2D" and npu.conv.allow_hf32 else "NO"
        shapes = '"' + ";".join(",".join(map(str, tensor.shape)) for tensor in tensors) + '"'
        types_ = ";".join({torch.float32: "FLOAT", torch.float16: "FLOAT16"}.get(x.dtype, "DT_BF16") for x in tensors)
        for number, each in enumerate(kinds):
            at = 1e6 * (start + number * seconds / len(kinds))
            core = "AI_CORE" if each == "Conv2D" else "AI_VECTOR_CORE"
            name = f"aclnn{operator}_{each}"
            times = (f"{at:.3f}\t", f"{1e6 * seconds / len(kinds):.3f}", 0)
            self._rows.append(
                [0, 4294967295, 1, 2, name, each, "dynamic", core, *times, 20, 0, hf32, shapes, types_, "NCHW"]
            )


class TorchNpu(types.ModuleType):
    """The part of torch.npu that the library, its backend and torch itself use."""

    Event = Event

    def __init__(self) -> None:
        super().__init__("torch.npu")
        self.conv = types.SimpleNamespace(allow_hf32=True)
        self.matmul = types.SimpleNamespace(allow_hf32=False)
        self.config = types.SimpleNamespace(allow_internal_format=False)
        self.utils = types.SimpleNamespace(
            get_cann_version={"CANN": "9.1.0", "DRIVER": "25.5.0"}.__getitem__,
            is_support_inf_nan=lambda: os.environ.get("INF_NAN_MODE_FORCE_DISABLE") != "1",
        )
        self.amp = types.SimpleNamespace(
            autocast=functools.partial(torch.amp.autocast, "npu"),
            GradScaler=functools.partial(torch.amp.GradScaler, "npu"),
        )
        self._jit_compile = False
        self._draws = torch.Generator()

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: object) -> None:
        torch.empty(0, device=torch.device("npu", device) if isinstance(device, int) else device)

    @contextlib.contextmanager
    def device(self, device: object) -> Iterator[None]:
        self.set_device(device)
        yield

    def get_device_name(self, device: object = None) -> str:
        return chip.name

    def get_device_properties(self, device: object = None) -> types.SimpleNamespace:
        return types.SimpleNamespace(name=chip.name, total_memory=chip.total_memory, L2_cache_size=chip.cache)

    def is_bf16_supported(self) -> bool:
        return True

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_jit_compile_false(self) -> bool:
        return not self._jit_compile

    def set_compile_mode(self, jit_compile: bool = False) -> None:
        self._jit_compile = jit_compile

    def synchronize(self, device: object = None) -> None:
        """Wait until the device is idle."""
        clock.wait_until(clock.done)

    def memory_allocated(self, device: object = None) -> int:
        return memory.allocated

    def max_memory_allocated(self, device: object = None) -> int:
        return memory.peak

    def reset_peak_memory_stats(self, device: object = None) -> None:
        memory.peak = memory.allocated

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        return chip.total_memory - memory.allocated, chip.total_memory

    def empty_cache(self) -> None:
        """Do nothing, as the simulation caches no memory."""

    def manual_seed_all(self, seed: int) -> None:
        self._draws.manual_seed(seed)

    def get_rng_state(self, device: object = "npu") -> torch.Tensor:
        return self._draws.get_state()

    def set_rng_state(self, new_state: torch.Tensor, device: object = "npu") -> None:
        self._draws.set_state(new_state)

    @contextlib.contextmanager
    def own_generator(self) -> Iterator[None]:
        """Let operators of the host draw from the device's generator."""
        host = torch.get_rng_state()
        torch.set_rng_state(self._draws.get_state())
        try:
            yield
        finally:
            self._draws.set_state(torch.get_rng_state())
            torch.set_rng_state(host)

    def _is_in_bad_fork(self) -> bool:
        return False


def _stand_in_for_torch_npu() -> None:
    """Register a module torch_npu, with the private functions that the backend uses."""
    options: dict[str, Callable[[], bool]] = {
        "ALLOW_INTERNAL_FORMAT": lambda: npu.config.allow_internal_format,
        "jitCompile": lambda: npu._jit_compile,
    }
    module: Any = types.ModuleType("torch_npu")
    module.__spec__ = importlib.machinery.ModuleSpec("torch_npu", None)
    module.__version__ = torch.__version__.partition("+")[0]
    module.npu = npu
    module.profiler = profiler
    module._C = types.SimpleNamespace(_npu_getOption=lambda name: b"enable" if options[name]() else b"disable")
    sys.modules["torch_npu"] = module


def _register_factories() -> None:
    """The operators that create tensors: all other factory functions call one of these two."""
    for name in ("empty.memory_format", "empty_strided"):
        operator = functools.reduce(getattr, [*name.split("."), "default"][:2], torch.ops.aten)

        def make(
            *args: Any, operator: Any = operator, device: torch.device, pin_memory: object = None, **kw: Any
        ) -> Any:
            _check(operator._schema.name, [device], kw)
            memory.check(operator(*args, device="meta", **kw).untyped_storage().nbytes())
            return NpuTensor(operator(*args, device=_HOST, **kw))

        _ATEN.impl(name, make, "PrivateUse1")

    def copy_from(source: torch.Tensor, target: NpuTensor, non_blocking: bool = False) -> torch.Tensor:
        target.host.copy_(source)
        return target

    _ATEN.impl("_copy_from", copy_from, "PrivateUse1")  # torch.tensor(values, device="npu") ends here


# As on other accelerators: products in the low precision, sums of many and exponentials in float32.
_AUTOCAST_LOW = """
    conv1d conv2d conv2d.padding conv3d conv_transpose2d.input linear matmul mm bmm addmm baddbmm
"""
_AUTOCAST_FLOAT32 = """
    softmax.int log_softmax.int cross_entropy_loss nll_loss mse_loss l1_loss layer_norm group_norm exp log
    pow.Tensor_Scalar
"""


def _register_autocast() -> None:
    _REST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for names, dtype_of in [
        (_AUTOCAST_LOW, lambda: torch.get_autocast_dtype("npu")),
        (_AUTOCAST_FLOAT32, lambda: torch.float32),
    ]:
        for name in names.split():
            operator = functools.reduce(getattr, [*name.split("."), "default"][:2], torch.ops.aten)

            def cast(
                *args: Any, operator: Any = operator, dtype_of: Callable[[], torch.dtype] = dtype_of, **kw: Any
            ) -> Any:
                dtype = dtype_of()

                def to_dtype(leaf: Any) -> Any:
                    eligible = isinstance(leaf, NpuTensor) and leaf.is_floating_point() and leaf.dtype != torch.float64
                    return leaf.to(dtype) if eligible else leaf

                with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEY):
                    return operator(*tree_map(to_dtype, args), **tree_map(to_dtype, kw))

            _ATEN.impl(name, cast, "AutocastPrivateUse1")


_AUTOCAST_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
_ATEN = torch.library.Library("aten", "IMPL")
_REST = torch.library.Library("_", "IMPL")

chip = Chip()
"""The simulated device."""

clock = Clock()
"""The simulated device's clock."""

memory = Memory()
"""The simulated device's memory."""

profiler = Profiler()
"""The simulated torch_npu.profiler."""

npu = TorchNpu()
_setup_privateuseone_for_python_backend("npu", backend_module=npu)
_stand_in_for_torch_npu()
_register_factories()
_register_autocast()
# So that nn.Module moves parameters by swapping them, and they stay the same objects as on real devices.
torch.__future__.set_swap_module_params_on_conversion(True)
torch.utils.swap_tensors = _swap_tensors
# All memory of the host is pinned memory to this device.
torch.Tensor.pin_memory = lambda tensor, device=None: tensor.clone()
