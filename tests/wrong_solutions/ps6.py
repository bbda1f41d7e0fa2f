"""A small reproduction."""

from wrong_solutions import Wrong

WRONG = {
    "variance instead of standard deviation": Wrong(
        cells={
            "images_needed": """
def images_needed(pilot, d):
    return max(2, math.ceil(1.96**2 * np.var(pilot, ddof=1) ** 2 / d**2))
"""
        },
        lost={"needed_visible": "N must not depend on the unit"},
    ),
    "unpaired test": Wrong(
        cells={
            "sign_flip_p": """
def sign_flip_p(values, draws, rng):
    observed, count = abs(values[:, 0].mean() - values[:, 1].mean()), 0
    for _ in range(draws):
        shuffled = rng.permutation(values.flatten()).reshape(values.shape)
        count += abs(shuffled[:, 0].mean() - shuffled[:, 1].mean()) >= observed - 1e-9
    return (count + 1) / (draws + 1)
"""
        },
        lost={
            "flip_visible": "do the pairs stay together?",
            "flip_hidden": "p is clearly larger than the share of all possible signs",
        },
    ),
    "one-sided test": Wrong(
        cells={
            "sign_flip_p": """
def sign_flip_p(values, draws, rng):
    differences = values[:, 0] - values[:, 1]
    means = (rng.choice([-1, 1], (draws, len(differences))) * differences).mean(1)
    return ((means >= differences.mean() - 1e-9).sum() + 1) / (draws + 1)
"""
        },
        lost={
            "flip_visible": "a difference in the other direction must count too",
            "flip_hidden": "than the share of all possible signs",
        },
    ),
    "bootstrap of the two methods apart": Wrong(
        cells={
            "bootstrap_interval": """
def bootstrap_interval(values, draws, rng):
    n, means = len(values), []
    for _ in range(draws):
        first, second = values[rng.integers(0, n, n), 0], values[rng.integers(0, n, n), 1]
        means.append(first.mean() - second.mean())
    return np.percentile(means, 2.5), np.percentile(means, 97.5)
"""
        },
        lost={
            "interval_visible": "do the values of an image stay together?",
            "interval_hidden": "end of a 95 % interval of 12 pairs is wrong",
        },
    ),
    "Holm without the running maximum": Wrong(
        cells={
            "holm": """
def holm(p):
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, p[order] * np.arange(len(p), 0, -1))
    return corrected
"""
        },
        lost={"holm_hidden": "A larger p-value has a smaller corrected value"},
    ),
}
