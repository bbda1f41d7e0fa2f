"""Selection, or which map is kept."""

from wrong_solutions import Wrong

WRONG = {
    "at a tie, the united map is kept": Wrong(
        cells={
            "select": """
def select(united, region, beta_united, beta_region):
    return united if beta_united >= beta_region else region
"""
        },
        lost={"select_hidden": "Two equal contributions"},
    ),
    "the score of the black image is left out": Wrong(
        cells={
            "contribution": """
def contribution(score, image, cam, black):
    return float(score(cam * image))
"""
        },
        lost={
            "contribution_visible": "A map that is 0 everywhere shows a black image; here it contributes 3",
            "contribution_hidden": "where the score of the black image is not 0",
            "scenes_test": "In counts_present, the count number",
        },
    ),
    "contributions without their sign": Wrong(
        cells={
            "unite": """
def unite(denoised, region, beta_denoised, beta_region):
    total = abs(beta_denoised) * denoised + abs(beta_region) * region
    low, high = total.min(), total.max()
    return (total - low) / (high - low) if high > low else torch.zeros_like(total)
"""
        },
        lost={
            "unite_hidden": "With 1 negative contributions of 2, the map is not that of Equation 6",
            "scenes_test": "In counts_present, the count number",
        },
    ),
    "the united map is compared before it is scaled": Wrong(
        cells={
            "union_cam": """
def union_cam(score, image, black, denoised, region, contribution, unite, select):
    betas = [contribution(score, image, cam, black) for cam in (denoised, region)]
    united = unite(denoised, region, *betas)
    beta_united = contribution(score, image, betas[0] * denoised + betas[1] * region, black)
    found = {"beta_denoised": betas[0], "beta_region": betas[1], "beta_united": beta_united, "united": united}
    return {**found, "cam": select(united, region, beta_united, betas[1])}
"""
        },
        lost={
            "whole_visible": "which is none of the three maps",
            "whole_hidden": "`beta_united` is another number",
            "scenes_test": "In counts_present, the count number",
        },
    ),
    "compares with the contribution of the denoised map": Wrong(
        cells={
            "union_cam": """
def union_cam(score, image, black, denoised, region, contribution, unite, select):
    beta_denoised, beta_region = (contribution(score, image, cam, black) for cam in (denoised, region))
    united = unite(denoised, region, beta_denoised, beta_region)
    beta_united = contribution(score, image, united, black)
    return {
        "beta_denoised": beta_denoised,
        "beta_region": beta_region,
        "beta_united": beta_united,
        "united": united,
        "cam": select(united, region, beta_united, beta_denoised),
    }
"""
        },
        lost={
            "whole_visible": "the contribution of a map that is no candidate in Equation 8",
            "whole_hidden": "`cam` is not the map that Equation 8 keeps",
        },
    ),
}
