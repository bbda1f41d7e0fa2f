"""Metrics, and how each is fooled."""

from wrong_solutions import Wrong

WRONG = {
    "the drop is not clipped at 0": Wrong(
        cells={
            "average_drop": """
def average_drop(before, after):
    return float(100 * ((before - after) / before).where(before > 0, 0).mean())
"""
        },
        lost={"drop_hidden": "An image that becomes more probable changes the average"},
    ),
    "the drop of the mean probability, and an increase where nothing changes": Wrong(
        cells={
            "average_drop": """
def average_drop(before, after):
    return float(100 * (before - after).clamp(min=0).mean() / before.mean())
""",
            "average_increase": """
def average_increase(before, after):
    return float(100 * (before <= after).float().mean())
""",
        },
        lost={
            "drop_visible": "One image loses half and one loses nothing",
            "drop_hidden": "the average drop is not the mean of the drops of each image",
            "increase_hidden": "Images whose probability stays the same are counted wrongly",
        },
    ),
    "the least salient pixels first": Wrong(
        cells={
            "ranks": """
def ranks(cam):
    return cam.flatten().argsort(stable=True).argsort().view_as(cam)
"""
        },
        lost={
            "ranks_visible": "The most salient pixel has the value 0.9",
            "ranks_hidden": "The order is wrong in a map whose pixels are different",
            "above_hidden": "Are the functions of Problems 1 to 3 right?",
            "caught_hidden": "Are the functions of Problems 1 to 3 right?",
        },
    ),
    "the mean of the points instead of the trapezoid rule": Wrong(
        cells={
            "area": """
def area(curve):
    return float(sum(curve) / len(curve))
"""
        },
        lost={"area_hidden": "the first and the last point count too much"},
    ),
    "the logit instead of the probability": Wrong(
        cells={
            "probabilities": """
def probabilities(network, images, c):
    with torch.no_grad():
        return network(images)[:, c]
"""
        },
        lost={
            "probabilities_visible": "are no probabilities",
            "probabilities_hidden": "These are logits",
            "above_hidden": "Are the functions of Problems 1 to 3 right?",
            "caught_hidden": "Are the functions of Problems 1 to 3 right?",
        },
    ),
}
