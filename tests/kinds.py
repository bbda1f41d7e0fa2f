"""Small networks of each kind that users have: each is `Net` with one thing changed."""

import copy

import torch
from torch import nn


class Net(nn.Module):
    """Two convolutions, of which the second one gives the `maps`, and a fully connected layer; then `end`."""

    def __init__(self, outputs=5, end=None, bands=3, size=(12, 12), seed=8, stride=2):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.relu = nn.Conv2d(bands, 4, 3, padding=1), nn.ReLU()
        self.conv2, self.maps = nn.Conv2d(4, 6, 3, stride, padding=1), nn.ReLU()
        h, w = ((side - 1) // stride + 1 for side in size)
        self.fc, self.end = nn.Linear(6 * h * w, outputs), end or nn.Identity()
        for weights in self.parameters():
            nn.init.normal_(weights, std=1.5 / weights[0].numel() ** 0.5 if weights.ndim > 1 else 0.2)
        self.double().eval()

    def features(self, images):
        return self.maps(self.conv2(self.relu(self.conv1(images))))

    def forward(self, images):
        return self.end(self.fc(self.features(images).flatten(1)))


class Views(Net):
    """`view`, which takes one layout in memory alone, before the fully connected layer."""

    def forward(self, images):
        return self.end(self.fc(self.features(images).view(len(images), -1)))


class LosesTheBatch(Net):
    def forward(self, images):
        return super().forward(images).squeeze()


class InParts(Net):
    def __init__(self, parts, **options):
        super().__init__(**options)
        self.parts = parts

    def forward(self, images):
        return torch.cat([super(InParts, self).forward(part) for part in images.split(self.parts)])


class Reversed(Net):
    """Image by image, the last one first, so that the parts of the layer's output are in another order."""

    def forward(self, images):
        return torch.cat([super(Reversed, self).forward(image[None]) for image in images.flip(0)]).flip(0)


class Crops(Net):
    """The mean over each image and its mirror image, in one batch of twice the size."""

    def forward(self, images):
        return super().forward(torch.cat([images, images.flip(3)])).unflatten(0, (2, len(images))).mean(0)


class FirstOnly(Net):
    """Only the first image reaches the layer."""

    def forward(self, images):
        return super().forward(images[:1]).expand(len(images), -1) + images.mean((1, 2, 3))[:, None]


class ChannelsLast(Net):
    """The maps in the layout (N, h, w, K)."""

    def features(self, images):
        return self.maps(self.conv2(self.relu(self.conv1(images))).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Tokens(Net):
    """The maps as (N, tokens, K), with some tokens in front of those of the positions."""

    def __init__(self, front=0, **options):
        super().__init__(**options)
        self.front = front

    def features(self, images):
        maps = self.conv2(self.relu(self.conv1(images)))
        tokens = torch.cat([maps.mean((2, 3))[:, None].expand(-1, self.front, -1), maps.flatten(2).mT], 1)
        return self.maps(tokens)[:, self.front :].mT.unflatten(2, maps.shape[2:])


class ClassToken(Tokens):
    """Only the token in front is read behind the maps, as behind the last block of a vision transformer."""

    def __init__(self):
        super().__init__(1)
        self.fc = nn.Linear(6, 5).double()

    def features(self, images):
        maps = self.conv2(self.relu(self.conv1(images))).flatten(2).mT
        return self.maps(torch.cat([maps.mean(1, keepdim=True), maps], 1))[:, 0]


class SharedReLU(Net):
    """One ReLU for three places; its last call gives the maps."""

    def features(self, images):
        return self.maps(self.conv2(self.maps(self.conv1(self.maps(images)))) - 0.1)


class SharedReLUInParts(SharedReLU):
    def forward(self, images):
        return torch.cat([super(SharedReLUInParts, self).forward(image[None]) for image in images])


class ReLUAfterTheMaps(Net):
    """The ReLU of the maps is used once more, on the outputs."""

    def forward(self, images):
        return self.maps(super().forward(images))


class Twins(Net):
    """The layer sees the whole batch twice: each image, and its mirror image, whose call is the last one."""

    def forward(self, images):
        return super().forward(images) + super().forward(images.flip(3))


class Unreached(Net):
    def __init__(self):
        super().__init__()
        self.unused, self.aside = nn.Conv2d(3, 3, 1).double(), nn.Conv2d(3, 3, 1).double()

    def forward(self, images):
        self.aside(images)
        return super().forward(images)


class Pooled(Net):
    """The maps are pooled to a grid whose shape is not the image's."""

    def __init__(self, grid, **options):
        super().__init__(**options)
        self.maps, self.fc = nn.AdaptiveAvgPool2d(grid), nn.Linear(6 * grid[0] * grid[1], 5)
        self.double().eval()


class Normed(Net):
    def __init__(self, norm, **options):
        super().__init__(**options)
        self.norm = norm.double().eval()

    def features(self, images):
        return self.maps(self.norm(self.conv2(self.relu(self.conv1(images)))))


class NearZero(Net):
    """One logit that is near 0 for an image, so that rounding is as large as the logit."""

    def __init__(self, image):
        super().__init__(1, seed=6)
        self.float()
        with torch.no_grad():
            self.fc.bias -= self(image.float())[0] - 1e-6


class Root(Net):
    """A square root, whose gradient is infinite where a map is 0, or NaN with `scale`."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, images):
        flat = self.features(images).flatten(1)
        return self.fc(flat + (self.scale * flat).sqrt())


class Dropout(Net):
    """Dropout as a function, which stays on in evaluation mode."""

    def features(self, images):
        return nn.functional.dropout(super().features(images), 0.3)


class DividesByMaximum(Net):
    def forward(self, images):
        return super().forward(images / images.amax((1, 2, 3), keepdim=True))


class NanBelow(Net):
    """NaN for images that are darker than a threshold, but not black."""

    threshold = 0.0

    def forward(self, images):
        mean = images.mean((1, 2, 3))[:, None]
        return super().forward(images).where((mean == 0) | (mean >= self.threshold), torch.nan)


class OwnAttributes(Net):
    """Attributes that a user's network may have for purposes of its own."""

    mean, std, input_range, background, classes, name = "of the data", 3, [16, 235], None, 5, b"net"

    def gradient_free(self):
        raise AssertionError("a method of the user's own was called")


class Buffers(Net):
    """No parameters: its weights are buffers."""

    def __init__(self):
        super().__init__()
        for module in (self.conv1, self.conv2, self.fc):
            for name, weights in list(module.named_parameters()):
                delattr(module, name)
                module.register_buffer(name, weights.detach())


class Does(nn.Module):
    """A function at the end of a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, y):
        return self.function(y)


def ends(function, outputs=5, **options):
    return Net(outputs, function if isinstance(function, nn.Module) else Does(function), **options)


def bounded(outputs, **options):
    """Logits that lie between 0 and 1 by chance, so that they look like probabilities."""
    return ends(lambda y: 0.5 + 0.3 * torch.tanh(y), outputs, **options)


def negated(model):
    """The opposite classifier of a network with one output."""
    opposite = copy.deepcopy(model)
    opposite.fc.weight.data.neg_()
    opposite.fc.bias.data.neg_()
    return opposite
