"""Grad-CAM from its equation."""

from wrong_solutions import Wrong

WRONG = {
    "forgot the ReLU": Wrong(
        cells={
            "grad_cam": """
def grad_cam(activations, weights):
    return (weights[:, None, None] * activations).sum(0)
"""
        },
        lost={"cam_hidden": "The map is negative at some positions"},
    ),
    "the ReLU of each channel, before the sum": Wrong(
        cells={
            "grad_cam": """
def grad_cam(activations, weights):
    return torch.einsum("k,kij->ij", weights.relu(), activations)
"""
        },
        lost={"cam_hidden": "where channels for and against the class are active"},
    ),
    "mean over the channels": Wrong(
        cells={
            "channel_weights": """
def channel_weights(gradients):
    return gradients.mean(0)
"""
        },
        lost={
            "weights_visible": "There are 3 channels, but the weights have shape [2, 2]",
            "weights_hidden": "5 channels of 3×4 gave weights of shape [3, 4]",
        },
    ),
    "gradient of the probability": Wrong(
        cells={
            "capture": """
def capture(network, image, c):
    activations = network.features[:-1](network.normalize(image[None])).detach().requires_grad_()
    logits = network.classifier(network.flatten(network.features[-1](activations)))
    (gradients,) = torch.autograd.grad(logits.softmax(1)[0, c], activations)
    return activations.detach()[0], gradients[0]
"""
        },
        lost={"capture_hidden": "gradients of a probability"},
    ),
    "divided by the largest value alone": Wrong(
        cells={
            "saliency": """
def saliency(cam, size):
    large = torch.nn.functional.interpolate(cam[None, None], size, mode="bilinear")[0, 0]
    return large / large.max()
"""
        },
        lost={"saliency_hidden": "The least value of the map is not 0"},
    ),
}
