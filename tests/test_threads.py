"""Tests that several threads can explain one network, and that a thread which only predicts is left alone."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from tiny import TinyCNN

from unioncam_core import UnionCAM
from unioncam_lab.engine import accelerate

pytestmark = pytest.mark.usefixtures("one_thread")
THREADS, CALLS = 8, 50


def plain():
    return TinyCNN(inplace=False).float()


def accelerated():
    return accelerate(plain(), "openvino", chunk=4, progress=False, threads=2)


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain, accelerated])
@pytest.mark.parametrize("training", [False, True])
def test_threads_explain_one_network(make, training):
    model = make().train(training)
    images = torch.rand(THREADS, 1, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    expected = [UnionCAM(plain(), ["relu2"])(image, [i % 5]) for i, image in enumerate(images)]

    def explain(i):
        cam = UnionCAM(model, ["relu2"])
        return [np.abs(cam(images[i], [i % 5]) - expected[i]).max() for _ in range(CALLS)]

    with ThreadPoolExecutor(THREADS) as pool:
        differences = list(pool.map(explain, range(THREADS)))
    assert np.shape(differences) == (THREADS, CALLS)
    assert np.max(differences) < 1e-4
    assert all(module.training == training for module in model.modules())
    assert sum(len(module._forward_hooks) for module in model.modules()) == 0
    assert torch.get_num_threads() == 1


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain, accelerated])
def test_a_thread_that_predicts_keeps_its_modes_and_its_logits(make):
    model, image, over = make(), torch.rand(1, 3, 12, 12), Event()
    expected = model(image).detach()

    def predict(grad):
        seen, calls = [], 0
        while not over.is_set() or calls < 50:
            with torch.set_grad_enabled(grad):
                logits = model(image)
                seen.append((torch.is_grad_enabled(), logits.requires_grad, torch.equal(logits, expected)))
            calls += 1
        return set(seen)

    def explain(_):
        try:
            cam = UnionCAM(model, ["relu2"])
            for _ in range(CALLS):
                cam(image)
        finally:
            over.set()

    with ThreadPoolExecutor(3) as pool:
        without, with_gradient, explained = (
            pool.submit(predict, False),
            pool.submit(predict, True),
            pool.submit(explain, 0),
        )
        explained.result()
        assert without.result() == {(False, False, True)}
        assert with_gradient.result() == {(True, True, True)}
