"""OOD scores of features, fitted on those of training examples.

NumPy and scikit-learn on collected features [N, F], the input of a network's last
layer. Larger means more in-distribution, as everywhere.
"""

import numpy as np
from sklearn import neighbors

LABELS = {
    "mahalanobis": "Mahalanobis distance of features",
    "nearest_neighbour": "nearest neighbours of features",
}


def scores(
    train: np.ndarray, label: np.ndarray, features: np.ndarray, *, k: int
) -> dict[str, np.ndarray]:
    """Both scores of `features` [M, F], fitted on `train` [N, F] and `label` [N]."""
    return {
        "mahalanobis": mahalanobis(train, label, features),
        "nearest_neighbour": nearest_neighbour(train, features, k=k),
    }


def mahalanobis(
    train: np.ndarray, label: np.ndarray, features: np.ndarray
) -> np.ndarray:
    """-min_c (f - μ_c)ᵀ Σ⁻¹ (f - μ_c), with one Σ for all classes.  -> [M].

    Lee et al. (2018), equations 1 and 2, of the last features only and without their
    input perturbation. Directions in which features do not vary do not count.
    """
    train, features = (np.asarray(x, np.float64) for x in (train, features))
    classes = np.unique(label)
    means = np.stack([train[label == c].mean(axis=0) for c in classes])
    centred = train - means[np.searchsorted(classes, label)]
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    # With Σ⁻¹ = L Lᵀ it is a squared distance of features times L.
    varies = values > len(values) * np.finfo(np.float64).eps * values[-1]
    root = vectors * np.where(varies, 1 / np.sqrt(np.where(varies, values, 1)), 0)
    nearest = neighbors.NearestNeighbors(n_neighbors=1).fit(means @ root)
    distance, _ = nearest.kneighbors(features @ root)
    return -(distance[:, 0] ** 2)


def nearest_neighbour(
    train: np.ndarray, features: np.ndarray, *, k: int = 50
) -> np.ndarray:
    """Minus the distance to the k-th nearest training feature, all of unit norm.

    Sun et al. (2022), whose k is 50 for CIFAR-10.  -> [M].
    """
    nearest = neighbors.NearestNeighbors(n_neighbors=min(k, len(train)))
    distance, _ = nearest.fit(_unit(train)).kneighbors(_unit(features))
    return -distance[:, -1]


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-10)
