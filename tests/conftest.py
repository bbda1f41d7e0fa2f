"""Networks that are small enough to compute by hand, in double precision."""

import pytest
import torch
from torch import nn

from unioncam_lab.classifiers import load_classifier


class TinyCNN(nn.Module):
    """Five layers: convolution, ReLU, convolution, ReLU, fully connected. The last one's weights are the gradient."""

    def __init__(self, seed=0, channels=6, side=12, classes=5, inplace=True, stride=2):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.relu1 = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace)
        self.conv2, self.relu2 = nn.Conv2d(4, channels, 3, stride=stride, padding=1), nn.ReLU(inplace)
        reduced = (side - 1) // stride + 1
        self.fc = nn.Linear(channels * reduced**2, classes)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5 / max(1, parameter[0].numel()) ** 0.5)
        self.double().eval()

    def features(self, images):
        return self.relu2(self.conv2(self.relu1(self.conv1(images))))

    def forward(self, images):
        return self.fc(self.features(images).flatten(1))


@pytest.fixture
def tiny():
    return TinyCNN()


@pytest.fixture
def images():
    return torch.rand(3, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def classifier():
    return load_classifier("efficientnet_lite0", device="cpu")
