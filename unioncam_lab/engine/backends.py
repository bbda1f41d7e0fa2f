"""The backends, which compute a batch of images: OpenVINO, ncnn, torch.compile, or PyTorch in eager mode.

A builder takes (model, example images, precision, batch sizes to try, threads, key). It returns a function, images
(n, channels, H, W) -> logits (n, C) in float32, and the batch sizes that the function supports. It raises an error if
it cannot support the model, the precision or the number of threads. The key names all that these depend on: what takes
long to build can be kept under it in the cache.
"""

import importlib.util
import io
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from unioncam_lab import cache

if TYPE_CHECKING:
    import openvino

# OpenVINO uses this package, if it can be imported, to report each of its imports over the network.
sys.modules.setdefault("openvino_telemetry", None)  # ty: ignore[no-matching-overload]

Function = Callable[[Tensor], Tensor]
Built = tuple[Function, Sequence[int]]  # (network, batch sizes that it supports)
Builder = Callable[[nn.Module, Tensor, str, Sequence[int], int, str], Built]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
OPENVINO_PRECISION = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def _eager(
    model: nn.Module, noise: Tensor, precision: Precision, sizes: Sequence[int], _threads: int, _key: str
) -> Built:
    """Build PyTorch's eager mode, with channels_last if the model supports it, which is often twice as fast on a CPU.

    On a GPU, cuDNN measures which convolutions are fastest.
    """
    model = _in_precision(model, precision)
    network = _torch_network(model, noise.device, precision)
    try:
        network(noise)
    except RuntimeError:  # Tensor.view, before a fully connected layer, supports no other layout than the usual one
        network = _torch_network(model, noise.device, precision, torch.contiguous_format)
    return network, sizes


def _compile(
    model: nn.Module, noise: Tensor, precision: Precision, sizes: Sequence[int], _threads: int, _key: str
) -> Built:
    """Build with torch.compile, with frozen weights, and with a CUDA graph on a GPU.

    Compiling takes half a minute per batch size, so only one size is compiled; other batches run in eager mode.
    """
    size = sizes[0] if len(sizes) == 1 else 4 if noise.device.type == "cpu" else 64
    model = _in_precision(model, precision)
    options: dict[str, str | int | bool | Callable] = {
        "freezing": True,
        "triton.cudagraphs": noise.device.type == "cuda",
    }
    compiled = torch.compile(model, dynamic=False, options=options)
    fast, eager = (_torch_network(module, noise.device, precision) for module in (compiled, model))
    # The results are cloned, because a CUDA graph writes each result over the last one.
    return lambda images: fast(images).clone() if len(images) == size else eager(images), (size,)


def _openvino(
    model: nn.Module, noise: Tensor, precision: Precision, sizes: Sequence[int], threads: int, key: str
) -> Built:
    """Build with OpenVINO on a CPU. It fuses convolutions, normalizations and activations, and packs the weights."""
    if noise.device.type != "cpu" or noise.dtype != torch.float32:
        raise ValueError(f"it takes float32 images on a CPU, not {noise.dtype} on {noise.device}")
    run = openvino_graph(model, (noise,), [(-1, *noise.shape[1:])], precision, threads, key)
    return lambda images: run(images).clone(), sizes


def openvino_graph(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: Sequence[Sequence[int]],
    precision: Precision,
    threads: int,
    key: str,
) -> Callable[..., Tensor]:
    """Return a module compiled by OpenVINO for inputs of these shapes (-1: any size). It is kept in the cache.

    As many threads as given can call the returned function at once, and each call is computed on one core: so no
    core waits for another one, which may be busy with another program. A call overwrites the result of the same
    thread's last call.

    Raises:
        ValueError: OpenVINO, which takes precision and threads only as hints, uses other values.
    """
    import openvino

    hint = OPENVINO_PRECISION[precision]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
    options |= {"ENABLE_CPU_PINNING": False}  # so that a thread can move to a core that is free
    core, name = openvino.Core(), cache.key(key, shapes, options)
    if (blob := cache.load(name)) is not None:
        compiled = core.import_model(io.BytesIO(blob), "CPU", options)
    else:
        compiled = core.compile_model(_openvino_model(module, example, shapes), "CPU", options)
    if (used := compiled.get_property("INFERENCE_PRECISION_HINT").to_string()) != hint:
        raise ValueError(f"on this processor it computes in {used}, but {precision} is requested")
    if (used := min(map(compiled.get_property, ("INFERENCE_NUM_THREADS", "NUM_STREAMS")))) != threads:
        raise ValueError(f"on this processor it computes on {used} threads, but {threads} are requested")
    if blob is None and cache.folder():
        cache.save(name, compiled.export_model().getvalue())
    own = threading.local()

    def run(*inputs: Tensor) -> Tensor:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        arrays = {i: tensor.contiguous().numpy() for i, tensor in enumerate(inputs)}
        return torch.from_numpy(own.request.infer(arrays, share_inputs=True, share_outputs=True)[0])

    return run


def _openvino_model(
    module: nn.Module, example: tuple[Tensor, ...], shapes: Sequence[Sequence[int]]
) -> "openvino.Model":
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # The frontend is used instead of openvino.convert_model, which reports each use over the network.
    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.14 deprecates tracing
        # Tracing need not compare the result with the model, because Engine._checked does so.
        decoder = TorchScriptPythonDecoder(module, example_input=example, trace_kwargs={"check_trace": False})
        graph = frontend.convert(frontend.load(decoder))
    graph.reshape(dict(zip(graph.inputs, map(list, shapes), strict=True)))
    return graph


def _ncnn(
    model: nn.Module, noise: Tensor, precision: Precision, sizes: Sequence[int], _threads: int, key: str
) -> Built:
    """Build with ncnn on a CPU. Its 3×3 convolutions are Winograd's, with a third of the multiplications or fewer.

    Each call is computed on one core, image by image, because ncnn knows no batches.
    """
    if noise.device.type != "cpu" or noise.dtype != torch.float32 or precision != "fp32":
        raise ValueError(
            f"it takes float32 images on a CPU in fp32, not {noise.dtype} on {noise.device} in {precision}"
        )
    if not ncnn_is_installed():
        raise ValueError("it needs the packages ncnn and pnnx: pip install -e '.[ncnn]'")
    from ncnn.ncnn import Mat  # ty: ignore[import-not-found]

    net = _ncnn_net(model, noise[:1], key)

    def logits(image: np.ndarray) -> Tensor:
        with net.create_extractor() as extractor:
            extractor.input("in0", Mat(image))
            failed, output = extractor.extract("out0")
            if failed:
                raise RuntimeError("it could not compute an image, perhaps for lack of memory")
            return torch.from_numpy(np.array(output)).flatten()

    return lambda images: torch.stack([logits(image) for image in images.contiguous().numpy()]), sizes


def ncnn_is_installed() -> bool:
    """Return whether ncnn, and pnnx, which converts networks for it, can be imported."""
    return all(importlib.util.find_spec(name) for name in ("ncnn", "pnnx"))


def _ncnn_net(module: nn.Module, example: Tensor, key: str) -> Any:
    """Return the ncnn.Net that computes a module in fp32 for images of the example's size (1, channels, H, W).

    Raises:
        ValueError: pnnx cannot convert the module, or ncnn has no such layer.
    """
    from ncnn.ncnn import Net, layer_to_index  # ty: ignore[import-not-found]

    name = cache.key(key, example.shape)
    with TemporaryDirectory() as folder:
        layers, weights = Path(folder, "net.ncnn.param"), Path(folder, "net.ncnn.bin")
        kept = cache.load(name)
        if kept is not None:
            text, _, content = kept.partition(b"\0")
            layers.write_bytes(text)
            weights.write_bytes(content)
        else:
            _convert(module, example, Path(folder, "net.pt"))
        kinds = {line.split()[0] for line in layers.read_text().splitlines()[2:]}
        if unknown := sorted(kind for kind in kinds if layer_to_index(kind) < 0):  # ncnn prints several lines about it
            raise ValueError(f"ncnn has no layer {' or '.join(unknown)}")
        net = Net()
        net.opt.num_threads = 1
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(net.opt, f"use_{option}", False)
        if net.load_param(str(layers)) or net.load_model(str(weights)):
            raise ValueError("ncnn cannot load the network that pnnx converted")
        if kept is None:
            cache.save(name, layers.read_bytes() + b"\0" + weights.read_bytes())
    return net


def _convert(module: nn.Module, example: Tensor, traced: Path):
    """Trace a module to this file, NAME.pt. pnnx then writes NAME.ncnn.param and NAME.ncnn.bin beside it."""
    import pnnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.14 deprecates tracing
        torch.jit.trace(module, example, check_trace=False).save(traced)
    unused = [f"{name}={os.devnull}" for name in ("pnnxbin", "pnnxonnx")]  # each is as large as the network
    command = [pnnx.EXEC_PATH, traced, f"inputshape={list(example.shape)}".replace(" ", ""), "fp16=0", *unused]
    if subprocess.run(command, capture_output=True).returncode or not traced.with_suffix(".ncnn.bin").exists():
        raise ValueError("pnnx cannot convert the network")


def bf16_is_native() -> bool:
    """Return whether OpenVINO is installed and finds instructions for bf16 (AMX, AVX-512) on this processor."""
    try:
        import openvino
    except ImportError:
        return False
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _in_precision(model: nn.Module, precision: Precision) -> nn.Module:
    """Return the model; for half precision, return a copy whose convolutions and linear layers have such weights."""
    if precision not in HALF:
        return model
    model = deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(HALF[precision])
    return model


def _torch_network(
    module: Callable,
    device: torch.device,
    precision: Precision,
    layout: torch.memory_format = torch.channels_last,
) -> Function:
    half = HALF.get(precision)

    def network(images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=layout)
        with (
            nvidia_settings(precision) if device.type == "cuda" else nullcontext(),
            torch.autocast(device.type, dtype=half, enabled=half is not None),
        ):
            logits = module(images)
        return logits if half is None else logits.float()

    return network


@contextmanager
def nvidia_settings(precision: Precision) -> Generator[None, None, None]:
    """Switch TF32 on or off, and let cuDNN use the convolution algorithm that it measures to be fastest."""
    backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # ty: ignore[missing-attribute]
    before = [backend.fp32_precision for backend in backends], torch.backends.cudnn.benchmark
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cudnn.benchmark = True
        yield
    finally:
        for backend, value in zip(backends, before[0], strict=True):
            backend.fp32_precision = value
        torch.backends.cudnn.benchmark = before[1]


def batch_of(rows: Tensor, count: int) -> Tensor:
    """Return a batch of `count` rows; the rows are repeated if there are fewer."""
    return rows[torch.arange(count) % len(rows)]


BACKENDS = {"openvino": _openvino, "ncnn": _ncnn, "compile": _compile, "eager": _eager}
# These backends compute a call on one core, so that as many calls as there are threads are needed at once.
CONCURRENT = ("openvino", "ncnn")
