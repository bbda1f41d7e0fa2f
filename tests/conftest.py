"""Fixtures that many tests use. They import what they need when they run, so that pytest starts at once."""

import os

import pytest

# timm and transformers make networks with random weights here, and never ask their hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests count what is computed, so nothing is read from the cache that other programs fill.
os.environ["UNIONCAM_CACHE"] = "off"


@pytest.fixture
def tiny():
    from tiny import TinyCNN

    return TinyCNN()


@pytest.fixture
def images():
    import torch

    return torch.rand(3, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def classifier():
    from unioncam_lab.classifiers import load_classifier

    return load_classifier("efficientnet_lite0", device="cpu")


@pytest.fixture
def kept_passes(pytestconfig, monkeypatch):
    """Keep masked passes in pytest's cache, for the other tests with this fixture and for the next run of pytest.

    They explain the same photos. After a change of the code that computes the passes, or of a package, they are
    computed anew; `pytest --cache-clear` removes them.
    """
    monkeypatch.setenv("UNIONCAM_CACHE", str(pytestconfig.cache.mkdir("kept")))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """60 pictures of noise; 3 of them are in a subfolder."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    (root / "more").mkdir()
    noise = np.random.default_rng(0)
    for i in range(60):
        pixels = noise.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("more" if i < 3 else ".") / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def one_thread():
    """Use one thread, because a second thread makes such small networks slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items):
    """Run the notebooks first, the last ones before all: they take longest, so that short tests fill both processes."""
    notebooks = [item for item in items if item.get_closest_marker("notebook")]
    items[:] = [*reversed(notebooks), *(item for item in items if not item.get_closest_marker("notebook"))]
