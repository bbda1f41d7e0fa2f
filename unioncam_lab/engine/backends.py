"""The backends, which compute a batch of images: OpenVINO, ncnn, torch.compile, or PyTorch in eager mode.

A builder takes (model, example images, precision, batch sizes to try, threads). It returns a function, images
(n, channels, H, W) -> logits (n, C) in float32, and the batch sizes that the function supports. It raises an error if
it cannot support the model, the precision or the number of threads.
"""

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

# OpenVINO uses this package, if it can be imported, to report each of its imports over the network.
sys.modules.setdefault("openvino_telemetry", None)  # ty: ignore[no-matching-overload]

Function = Callable[[Tensor], Tensor]
Built = tuple[Function, Sequence[int]]  # (network, batch sizes that it supports)
Builder = Callable[[nn.Module, Tensor, str, Sequence[int], int], Built]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
OPENVINO_PRECISION = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def _eager(model: nn.Module, noise: Tensor, precision: Precision, sizes: Sequence[int], _threads: int) -> Built:
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


def _compile(model: nn.Module, noise: Tensor, precision: Precision, sizes: Sequence[int], _threads: int) -> Built:
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


def _openvino(model: nn.Module, noise: Tensor, precision: Precision, sizes: Sequence[int], threads: int) -> Built:
    """Build with OpenVINO on a CPU. It fuses convolutions, normalizations and activations, and packs the weights."""
    if noise.device.type != "cpu" or noise.dtype != torch.float32:
        raise ValueError(f"it takes float32 images on a CPU, not {noise.dtype} on {noise.device}")
    run = openvino_graph(model, (noise,), [(-1, *noise.shape[1:])], precision, threads)
    return lambda images: run(images).clone(), sizes


def openvino_graph(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: Sequence[Sequence[int]],
    precision: Precision,
    threads: int,
) -> Callable[..., Tensor]:
    """Return a module compiled by OpenVINO for inputs of these shapes (-1: any size).

    Each call of the returned function overwrites the result of the last call.

    Raises:
        ValueError: OpenVINO, which takes precision and threads only as hints, uses other values.
    """
    import openvino
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
    hint = OPENVINO_PRECISION[precision]
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(graph, "CPU", options)
    if (used := compiled.get_property("INFERENCE_PRECISION_HINT").to_string()) != hint:
        raise ValueError(f"on this processor it computes in {used}, but {precision} is requested")
    if (used := compiled.get_property("INFERENCE_NUM_THREADS")) != threads:
        raise ValueError(f"on this processor it computes on {used} threads, but {threads} are requested")
    request = compiled.create_infer_request()

    def run(*inputs: Tensor) -> Tensor:
        arrays = {i: tensor.contiguous().numpy() for i, tensor in enumerate(inputs)}
        return torch.from_numpy(request.infer(arrays, share_inputs=True, share_outputs=True)[0])

    return run


def _ncnn(model: nn.Module, noise: Tensor, precision: Precision, sizes: Sequence[int], threads: int) -> Built:
    """Build with ncnn on a CPU. Its 3×3 convolutions are Winograd's, with a third of the multiplications or fewer.

    Each thread computes whole images, so that on a busy machine no thread waits for another within an image. A batch
    ends when its last image does, so batches have several images for each thread.
    """
    if noise.device.type != "cpu" or noise.dtype != torch.float32 or precision != "fp32":
        raise ValueError(
            f"it takes float32 images on a CPU in fp32, not {noise.dtype} on {noise.device} in {precision}"
        )
    if not ncnn_is_installed():
        raise ValueError("it needs the packages ncnn and pnnx: pip install -e '.[ncnn]'")
    from ncnn.ncnn import Mat  # ty: ignore[import-not-found]

    net = ncnn_net(model, noise[:1])

    def logits(image: np.ndarray) -> Tensor:
        with net.create_extractor() as extractor:
            extractor.input("in0", Mat(image))
            failed, output = extractor.extract("out0")
            if failed:
                raise RuntimeError("it could not compute an image, perhaps for lack of memory")
            return torch.from_numpy(np.array(output)).flatten()

    def run(images: Tensor) -> Tensor:
        with ThreadPoolExecutor(threads) as pool:
            return torch.stack(list(pool.map(logits, images.contiguous().numpy())))

    return run, [size for size in sizes if size >= 4 * threads] or sizes[-1:]


def ncnn_is_installed() -> bool:
    """Return whether ncnn, and pnnx, which converts networks for it, can be imported."""
    return all(importlib.util.find_spec(name) for name in ("ncnn", "pnnx"))


def ncnn_net(module: nn.Module, example: Tensor) -> Any:
    """Return the ncnn.Net that computes a module in fp32 for images of the example's size (1, channels, H, W).

    Raises:
        ValueError: pnnx cannot convert the module, or ncnn has no such layer.
    """
    import pnnx
    from ncnn.ncnn import Net, layer_to_index  # ty: ignore[import-not-found]

    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.14 deprecates tracing
        traced, layers, weights = (Path(folder, name) for name in ("net.pt", "net.ncnn.param", "net.ncnn.bin"))
        torch.jit.trace(module, example, check_trace=False).save(traced)
        unused = [f"{name}={os.devnull}" for name in ("pnnxbin", "pnnxonnx")]  # each is as large as the network
        command = [pnnx.EXEC_PATH, traced, f"inputshape={list(example.shape)}".replace(" ", ""), "fp16=0", *unused]
        if subprocess.run(command, capture_output=True).returncode or not weights.exists():
            raise ValueError("pnnx cannot convert the network")
        kinds = {line.split()[0] for line in layers.read_text().splitlines()[2:]}
        if unknown := sorted(
            kind for kind in kinds if layer_to_index(kind) < 0
        ):  # ncnn prints several lines about them
            raise ValueError(f"ncnn has no layer {' or '.join(unknown)}")
        net = Net()
        net.opt.num_threads = 1
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(net.opt, f"use_{option}", False)
        if net.load_param(str(layers)) or net.load_model(str(weights)):
            raise ValueError("ncnn cannot load the network that pnnx converted")
    return net


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
