"""JEM and NG-EBM in PyTorch, written from the papers and from the layout of the
official checkpoints: an independent second opinion, for tests and benchmarks.

Images are NCHW in [-1, 1]; `log_p` is log p(x) up to a constant, minus the energy.
"""

import contextlib

import torch
from torch import nn
from torch.nn import functional


class ActNorm(nn.Module):
    """scale * (x + loc) with both already found."""

    def __init__(self, channels):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(1, dtype=torch.uint8))

    def forward(self, x):
        return self.scale * (x + self.loc)


NORMS = {
    None: lambda channels: nn.Identity(),
    "batch": lambda channels: nn.BatchNorm2d(channels, momentum=0.9),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "act": ActNorm,
}


class Block(nn.Module):
    def __init__(self, channels_in, channels, stride, norm):
        super().__init__()
        self.bn1 = NORMS[norm](channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.bn2 = NORMS[norm](channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, stride=stride)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride)
            )

    def forward(self, x):
        y = self.conv1(functional.leaky_relu(self.bn1(x), 0.2))
        y = self.conv2(functional.leaky_relu(self.bn2(y), 0.2))
        return y + self.shortcut(x)


class Features(nn.Module):
    def __init__(self, depth, width, norm, channels):
        super().__init__()
        sizes = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        for group in (1, 2, 3):
            before, after = sizes[group - 1], sizes[group]
            blocks = [Block(before, after, 1 if group == 1 else 2, norm)]
            for _ in range((depth - 4) // 6 - 1):
                blocks.append(Block(after, after, 1, norm))
            setattr(self, f"layer{group}", nn.Sequential(*blocks))
        self.bn1 = NORMS[norm](sizes[3])
        self.linear = nn.Linear(sizes[3], 10)  # in the official files, and unused

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = functional.leaky_relu(self.bn1(x), 0.2)
        return functional.avg_pool2d(x, min(8, x.shape[-1])).flatten(1)


class Classifier(nn.Module):
    """Its state dict has the names, shapes and order of the official one."""

    def __init__(self, depth=10, width=1, num_classes=10, norm=None, channels=3):
        super().__init__()
        self.f = Features(depth, width, norm, channels)
        self.energy_output = nn.Linear(64 * width, 1)  # unused too
        self.class_output = nn.Linear(64 * width, num_classes)

    def forward(self, x):
        return self.class_output(self.f(x))


def log_p(model, x, labels=None):
    """log p(x), or log p(x, y) with labels.  [B, C, H, W] -> [B]."""
    logits = model(x)
    if labels is None:
        return logits.logsumexp(1)
    return logits[torch.arange(len(x)), labels]


def score(model, x, labels=None):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(log_p(model, x, labels).sum(), x)[0]


def chain(
    model,
    x,
    num_steps,
    *,
    step_size=1.0,
    noise_std=0.01,
    labels=None,
    train_mode=False,
    clip_grad=float("inf"),
    clip_x=float("inf"),
):
    """SGLD from x with the norms in evaluation mode, as the official sampler.

    The clips are those of JEM++.
    """
    was_training = model.training
    model.train(train_mode)
    for _ in range(num_steps):
        noise = noise_std * torch.randn_like(x)
        slope = score(model, x, labels).clamp(-clip_grad, clip_grad)
        x = (x + step_size * slope + noise).clamp(-clip_x, clip_x)
    model.train(was_training)
    return x.detach()


def jem_loss(model, x, x_model, x_labelled, labels):
    """-log p(x) by contrast with x_model, minus log p(y | x).

    Three passes in this order, which running moments of batch norm depend on.
    """
    data = log_p(model, x).mean()
    contrast = log_p(model, x_model).mean() - data
    return contrast + functional.cross_entropy(model(x_labelled), labels)


def joint_loss(model, x, x_model, labels):
    """-log p(x | y) by contrast with x_model, chains at the same labels.

    The data come last, by whose moments evaluation normalises.
    """
    chains = log_p(model, x_model, labels).mean()
    return chains - log_p(model, x, labels).mean()


def ng_ebm_loss(model, x, labels, *, beta=1.0, gamma=1.0):
    x = x.detach().requires_grad_()
    logits = model(x)
    energy = -logits.logsumexp(1)
    (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    variance = ((energy - energy.mean()) ** 2).mean()
    mass = slope.flatten(1).norm(dim=1).mean()
    return functional.cross_entropy(logits, labels) + beta * variance + gamma * mass


@contextlib.contextmanager
def frozen_moments(model):
    """Batch norm in training mode without an update of its running moments."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def sam_gradients(model, loss_fn, rho):
    """Leaves in p.grad the gradient at w + rho w² g / ‖|w| g‖, SADA-JEM's adaptive
    form, w being unchanged. Running moments are those of the first evaluation.  -> the
    loss at w."""
    model.zero_grad()
    loss = loss_fn()
    loss.backward()
    params = [p for p in model.parameters() if p.grad is not None]
    before = [p.detach().clone() for p in params]
    squares = [((p.abs() * p.grad) ** 2).sum() for p in params]
    length = torch.stack(squares).sum().sqrt()
    with torch.no_grad():
        for p in params:
            p += rho * p**2 * p.grad / (length + 1e-12)
    model.zero_grad()
    with frozen_moments(model):
        loss_fn().backward()
    with torch.no_grad():
        for p, old in zip(params, before, strict=True):
            p.copy_(old)
    return loss.detach()


def adam(model, learning_rate=1e-4, weight_decay=0.0):
    return torch.optim.Adam(
        model.parameters(), learning_rate, (0.9, 0.999), weight_decay=weight_decay
    )


def warm_up(optimizer, learning_rate, step, warmup_steps):
    """The rate of the official loop: 0 in its first iteration."""
    if step <= warmup_steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * step / warmup_steps
