"""What `torch_reference` computes in double precision, for machines without PyTorch.

    python tests/golden_parity.py    # rewrites tests/golden/parity.npz

A tensor is kept as its fingerprint: its norm and its products with two random tensors.
Weights and images come from NumPy's RandomState, whose streams never change.
"""

import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parent / "golden" / "parity.npz"
NORMS = (None, "batch", "instance", "layer", "act")
OBJECTIVES = {
    "jem": dict(cross_entropy=1.0, p_x=1.0),
    "joint": dict(p_x_y=1.0),
    "ng_ebm": dict(cross_entropy=1.0, energy_variance=1.0, approximate_mass=1.0),
}
CASES = [  # of losses and gradients; `test_parity` has them all
    *[("jem", None), ("jem", "batch"), ("joint", None)],
    *[("ng_ebm", None), ("ng_ebm", "batch")],
]
LABELS = np.arange(6) % 10
RATE, NUM_STEPS, WEIGHT_DECAYS = 1e-2, 5, (0.0, 1e-2)  # of Adam


def images(seed):
    """NHWC, in [-1, 1]."""
    return np.random.RandomState(seed).uniform(-1, 1, (6, 16, 16, 3))


def weights(shapes):
    """{name: shape} -> {name: tensor}, in sorted order; logits of a deviation of 1."""
    rng, state = np.random.RandomState(0), {}
    for name, shape in sorted(shapes.items()):
        x = rng.standard_normal(shape)
        if name.endswith("running_var") or (len(shape) == 1 and "weight" in name):
            x = 1 + 0.1 * np.abs(x)
        elif name.endswith("scale"):
            x = 1 + 0.1 * x
        elif len(shape) > 1 and not name.endswith("loc"):
            x = x / np.sqrt(np.prod(shape[1:]))
        else:
            x = 0.1 * x
        state[name] = x
    state["class_output.weight"] *= 3
    return state


def gradients():
    """Of one parameter [8], step after step."""
    return np.random.RandomState(3).standard_normal((NUM_STEPS, 8))


def fingerprint(x):
    x = np.asarray(x, np.float64).ravel()
    random = np.random.RandomState(1).standard_normal((2, x.size))
    return np.array([np.linalg.norm(x), *random @ x])


def generate():
    """{name: value}; names of tensors are the official ones."""
    import torch
    import torch_reference as reference
    from torch_trained import to_numpy, to_torch

    def network(norm):
        model = reference.Classifier(norm=norm).double()
        shapes = {
            name: tuple(x.shape)
            for name, x in model.state_dict().items()
            if x.is_floating_point()
        }
        state = {name: torch.tensor(x) for name, x in weights(shapes).items()}
        model.load_state_dict(state, strict=False)
        return model, shapes

    found = {}
    for norm in NORMS:
        model, shapes = network(norm)
        found[f"{norm}/names"] = np.array(sorted(shapes))
        found[f"{norm}/shapes"] = np.array(
            [",".join(map(str, shapes[name])) for name in sorted(shapes)]
        )
        model.eval()
        x = to_torch(images(0))
        found[f"{norm}/logits"] = model(x).detach().numpy()
        found[f"{norm}/score"] = fingerprint(to_numpy(reference.score(model, x)))
    model, _ = network(None)
    for name, labels in {"marginal": None, "joint": torch.tensor(LABELS)}.items():
        x = reference.chain(model, to_torch(images(0)), 20, noise_std=0, labels=labels)
        found[f"chain/{name}"] = fingerprint(to_numpy(x))
    for objective, norm in CASES:
        model, _ = network(norm)
        model.train()
        x, x_model, x_labelled = (to_torch(images(seed)) for seed in range(3))
        y = torch.tensor(LABELS)
        if objective == "jem":
            loss = reference.jem_loss(model, x, x_model, x_labelled, y)
        elif objective == "joint":
            loss = reference.joint_loss(model, x_labelled, x_model, y)
        else:
            loss = reference.ng_ebm_loss(model, x_labelled, y)
        loss.backward()
        found[f"{objective}/{norm}/loss"] = loss.item()
        tensors = {
            name: p.grad for name, p in model.named_parameters() if p.grad is not None
        }
        tensors |= {n: x for n, x in model.named_buffers() if "running" in n}
        found[f"{objective}/{norm}/names"] = np.array(sorted(tensors))
        found[f"{objective}/{norm}/tensors"] = np.array(
            [fingerprint(tensors[name]) for name in sorted(tensors)]
        )
    for decay in WEIGHT_DECAYS:
        parameter = torch.nn.Parameter(torch.ones(8, dtype=torch.float64))
        optimizer = torch.optim.Adam([parameter], RATE, weight_decay=decay)
        for gradient in gradients():
            parameter.grad = torch.tensor(gradient)
            optimizer.step()
        found[f"adam/{decay}"] = parameter.detach().numpy()
    return found


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **generate())
