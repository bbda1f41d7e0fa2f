"""Fusion-CAM: the same two maps with other weights, and a fusion per pixel.

    Dekdegue H, Garouani M, Mothe J, Bernigaud J (2026). Fusion-CAM. arXiv:2603.05386

Its steps, on the Evidence and with the functions of unioncam_core:

    denoised    Grad-CAM; its pixels below their theta-th percentile become 0
    region      the region map; its weights are a softmax over channels
    united      the sum of both, weighted by their shares of the contributions
    cam         union and region map, fused per pixel: the larger value where they agree, the mean where they do not
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unioncam_core import Evidence, UnionCAM, contribution, denoise, region_cam, weighted_cam

RegionWeights = Literal["softmax", "score", "increase"]


@dataclass(frozen=True, eq=False)
class FusionSteps:
    """Every intermediate of Fusion-CAM. Maps are (H, W) in [0, 1]; two shares sum to 1."""

    denoised: Tensor
    region: Tensor
    united: Tensor
    beta_denoising: float
    beta_region: float
    beta_united: float
    shares: tuple[float, float]  # of the denoised and the region map in their union
    second_shares: tuple[float, float]  # of the union and the region map in the fusion
    similarity: Tensor
    cam: Tensor


def fusion_cam(evidence: Evidence, theta: float = 10, region_weights: RegionWeights = "softmax") -> FusionSteps:
    """Fusion-CAM: Grad-CAM, denoised by the percentile of its own pixels, and the region map, fused per pixel.

    A negative beta counts as 0; if both do, the region map has all of the weight.

    >>> from unioncam_core import Scorer
    >>> score = Scorer(lambda images: images.mean((1, 2, 3))[:, None] * torch.tensor([1.0, 0]), target=0)
    >>> A = torch.tensor([[[0.0, 1], [2, 3]], [[3, 0], [0, 0]]])
    >>> toy = Evidence(torch.ones(3, 2, 2), 0, A, gradients=A - 1, probability=1.0, black_score=0.5, score=score)
    >>> steps = fusion_cam(toy)
    >>> [round(share, 2) for share in steps.shares]
    [0.48, 0.52]
    """
    denoised = denoise(weighted_cam(evidence, evidence.gradients.mean((1, 2))), theta)
    region = region_cam(evidence, region_weights)
    betas = contribution(evidence, denoised), contribution(evidence, region)
    shares = _shares(*betas)
    united = evidence.scaled(shares[0] * denoised + shares[1] * region)
    beta_united = contribution(evidence, united)
    second = _shares(beta_united, shares[1])
    similarity, fused = fuse(second[0] * united, second[1] * region)
    cam = evidence.scaled(fused)
    return FusionSteps(denoised, region, united, *betas, beta_united, shares, second, similarity, cam)


def fuse(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """s = 1 - |a - b|, the similarity of two maps, and their fusion s max(a, b) + (1 - s) (a + b) / 2.

    >>> fuse(torch.tensor([0.8, 1.0]), torch.tensor([0.8, 0.0]))
    (tensor([1., 0.]), tensor([0.8000, 0.5000]))
    """
    similarity = (1 - (first - second).abs()).clamp(0, 1)
    return similarity, similarity * torch.maximum(first, second) + (1 - similarity) * (first + second) / 2


def _shares(first: float, second: float) -> tuple[float, float]:
    first, second = max(first, 0.0), max(second, 0.0)
    return (first / (first + second), second / (first + second)) if first + second > 0 else (0.0, 1.0)


class FusionCAM(UnionCAM):
    """Fusion-CAM behind the same call. `region_weights` as in `fusion_cam`, whatever the Protocol's are.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    >>> FusionCAM(model, target_layers=[model[1]])(input_tensor=torch.rand(7, 3, 8, 8)).shape
    (7, 8, 8)
    """

    def __init__(self, *arguments, region_weights: RegionWeights = "softmax", **options):
        super().__init__(*arguments, **options)
        self.region_weights = region_weights

    def explain(self, evidence: Evidence) -> FusionSteps:
        return fusion_cam(evidence, self.theta, self.region_weights)
