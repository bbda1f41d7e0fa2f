"""Small networks unlike tiny.py's: other channels, one output, several labels, other layouts, forms that need care."""

from types import SimpleNamespace

import torch
from torch import nn


class Other(nn.Module):
    """A network in double precision for images of 12×12 pixels. Its layer `maps` returns 5 maps of 6×6.

    Args:
        channels, outputs: of its images, and of it.
        last: whether `maps` returns (N, h, w, K).
        end: what is applied to the outputs.
        names: the outputs are in the attribute `logits` of an object.
    """

    def __init__(self, channels=3, outputs=4, last=False, end=None, names=False, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv, self.maps, self.fc = nn.Conv2d(channels, 5, 3, 2, 1), nn.ReLU(), nn.Linear(5 * 36, outputs)
        self.last, self.end, self.names = last, end or nn.Identity(), names
        for parameter in self.parameters():
            fan = max(1, parameter[0].numel())
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan**0.5
        self.double().eval()

    def forward(self, images):
        maps = self.conv(images)
        maps = self.maps(maps.movedim(1, -1)).movedim(-1, 1) if self.last else self.maps(maps)
        outputs = self.end(self.fc(maps.flatten(1)))
        return SimpleNamespace(logits=outputs) if self.names else outputs


class Single(Other):
    """In single precision, as pictures are, with what the runner needs: a target layer and the size of its images."""

    target_layer, input_size = "maps", 12

    def __init__(self, **options):
        super().__init__(**options)
        self.float()


def picture(channels=3, seed=0, size=12, dtype=torch.float64):
    return torch.rand(channels, size, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))
