"""Networks that are small enough to compute by hand, in double precision."""

from dataclasses import fields

import torch
from torch import nn

from unioncam_core import capture


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


class TinyClassifier(TinyCNN):
    """TinyCNN with the attributes of a loaded classifier, in single precision."""

    name, input_size = "tiny", 12
    classes = ("ant", "bee", "cat", "dog", "eel")

    def __init__(self, seed=0):
        super().__init__(seed)
        self.float()

    @property
    def target_layer(self):
        return self.relu2


def explain(model, images, layer="relu2", **options):
    return capture(model, images, target_layer=layer, **options)


def state(model):
    """Return the state of a model and of PyTorch that a public function must not change."""
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "tensors": [t.tolist() for t in model.state_dict().values()],
        "modes": (torch.is_grad_enabled(), torch.get_num_threads(), torch.backends.cudnn.benchmark),
        "random": torch.random.get_rng_state().tolist(),
    }


def all_finite(steps):
    values = (getattr(steps, field.name) for field in fields(steps))
    return all(torch.as_tensor(value).isfinite().all() for value in values if not isinstance(value, str))
