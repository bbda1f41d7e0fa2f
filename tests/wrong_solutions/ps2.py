"""Typical wrong solutions of problem set 2, and what each of them costs."""

from wrong_solutions import Wrong

WRONG = {
    "percentile over all channels": Wrong(
        cells={
            "denoise": """def denoise(gradients, theta):
    return torch.where(gradients >= torch.quantile(gradients, theta / 100), gradients, 0.0)"""
        },
        lost={"denoise_channels": "each channel has its own percentile"},
    ),
    "strict > instead of >=": Wrong(
        cells={
            "denoise": """def denoise(gradients, theta):
    thresholds = gradients.flatten(1).quantile(theta / 100, dim=1)
    return torch.where(gradients > thresholds[:, None, None], gradients, 0.0)"""
        },
        lost={"denoise_equal": "a gradient of exactly 5 was not treated as Equation 1 says"},
    ),
    "input changed in place": Wrong(
        cells={
            "denoise": """def denoise(gradients, theta):
    thresholds = gradients.flatten(1).quantile(theta / 100, dim=1)
    gradients[gradients < thresholds[:, None, None]] = 0
    return gradients"""
        },
        lost={"denoise_one": "denoise has changed its input"},
    ),
    "alpha from the mean, and infinite where no gradient is positive": Wrong(
        cells={
            "alpha": """def alpha(gradients):
    return 1 / gradients.relu().mean((1, 2))"""
        },
        lost={"alpha_numbers": "add up to 6 and not to 1", "alpha_zero": "has no finite alpha"},
    ),
    "no ReLU on the gradients": Wrong(
        cells={
            "denoised_map": """def denoised_map(activations, gradients, alphas):
    return (alphas[:, None, None] * gradients * activations).sum(0).relu()"""
        },
        lost={"map_signs": "A position with a negative gradient differs from one whose gradient is 0"},
    ),
}
