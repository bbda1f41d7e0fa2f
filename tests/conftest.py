"""What many tests start from."""

import pytest
import torch
from tiny import TinyCNN

from unioncam_lab.classifiers import load_classifier


@pytest.fixture
def tiny():
    return TinyCNN()


@pytest.fixture
def images():
    return torch.rand(3, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def classifier():
    return load_classifier("efficientnet_lite0", device="cpu")
