"""The same step in plain PyTorch, as users of the official code run it.

Eager, NCHW, threads and allocator as shipped, in the order of the official loops:
JEM makes three forward passes of its own (data, chains, labelled), NG-EBM takes the
gradient of the gradient's norm by double backward. Only the data are handled better
than there: cropped a batch at a time, in this process.

"tuned" is the same with what makes PyTorch faster on a CPU without a change of the
program: channels_last, and the allocator settings of `__main__.ALLOCATOR`. "compiled"
is the tuned network through torch.compile, which cannot differentiate twice and so not
be NG-EBM's.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import cases, worker


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x):
        y = self.conv1(F.leaky_relu(x, 0.2))
        return self.conv2(F.leaky_relu(y, 0.2)) + self.shortcut(x)


class WideResNet(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        blocks, channels = [], 16
        for group in range(3):
            for i in range((depth - 4) // 6):
                outputs, stride = 16 * width * 2**group, 2 if group and not i else 1
                blocks.append(Block(channels, outputs, stride))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, cases.NUM_CLASSES)

    def forward(self, x):
        x = F.leaky_relu(self.blocks(self.conv1(x)), 0.2)
        return self.head(F.avg_pool2d(x, 8).flatten(1))

    def load(self, weights):
        """{"layer1_0/conv1/kernel": [h, w, I, O], ...}."""
        per_group = len(self.blocks) // 3
        names = {
            f"layer{i // per_group + 1}_{i % per_group}": f"blocks.{i}"
            for i in range(len(self.blocks))
        }
        own = dict(self.named_parameters())
        order = {}
        for name, value in weights.items():
            *path, leaf = name.split("/")
            path[0] = names.get(path[0], path[0])
            path.append({"kernel": "weight"}.get(leaf, leaf))
            order[name] = parameter = own.pop(".".join(path))
            value = torch.from_numpy(value.transpose(_axes(value)).copy())
            parameter.data.copy_(value)
        assert not own, own.keys()
        return order


def _axes(value):
    return {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]


def sample(net, x, noise):
    """SGLD from x; noise: an iterable with the N(0, I) of each step."""
    net.eval()
    x = x.clone().requires_grad_()
    for n in noise:
        energy = net(x).logsumexp(1).sum()
        (gradient,) = torch.autograd.grad(energy, [x], retain_graph=True)
        x.data += cases.STEP_SIZE * gradient + cases.CHAIN_NOISE * n
    net.train()
    return x.detach()


def jem_loss(net, x, labels, chains):
    f_data = net(x).logsumexp(1)
    f_chains = net(chains).logsumexp(1)
    return F.cross_entropy(net(x), labels) - (f_data.mean() - f_chains.mean())


def ng_ebm_loss(net, x, labels):
    x = x.requires_grad_()
    logits = net(x)
    f = logits.logsumexp(1)
    variance = ((f - f.mean()) ** 2).mean()
    (gradient,) = torch.autograd.grad(f.sum(), [x], create_graph=True)
    slope = gradient.flatten(1).norm(dim=1).mean()
    return F.cross_entropy(logits, labels) + variance + slope


def classifier_loss(net, x, labels):
    return F.cross_entropy(net(x), labels)


LOSSES = {"jem": jem_loss, "ng_ebm": ng_ebm_loss, "classifier": classifier_loss}


def augment(images, index):
    """Reflect-pad, random crop, flip and noise of uint8 images [N, C, H, W]."""
    x = images[index].float() / 127.5 - 1
    size, count = x.shape[-1], len(x)
    x = F.pad(x, [cases.PAD] * 4, mode="reflect")
    rows, cols = torch.randint(2 * cases.PAD + 1, (2, count, 1)) + torch.arange(size)
    cols = torch.where(torch.rand(count, 1) < 0.5, cols, cols.flip(1))
    x = x[torch.arange(count)[:, None, None], :, rows[:, :, None], cols[:, None]]
    x = x.permute(0, 3, 1, 2).contiguous()
    return x + cases.INPUT_NOISE * torch.randn_like(x)


def deviation(ours, theirs):
    """‖ours - theirs‖ / ‖theirs‖ of lists of arrays."""
    differences = [
        np.asarray(o) - np.asarray(t) for o, t in zip(ours, theirs, strict=True)
    ]
    norms = [
        sum(np.linalg.norm(x) ** 2 for x in arrays) ** 0.5
        for arrays in (differences, theirs)
    ]
    return float(norms[0] / norms[1])


def check(case, path):
    """Compares what `ours` found on one batch with what this file finds.

    Raises AssertionError unless they agree, else returns how they differ.
    """
    ours = np.load(path)
    net = WideResNet(case.depth, case.width)
    part = {  # "params/conv1/kernel" -> "conv1/kernel"
        kind: {n.split("/", 1)[1]: ours[n] for n in ours if n.startswith(kind + "/")}
        for kind in ("params", "grads")
    }
    parameters = net.load(part["params"])
    images = lambda x: torch.from_numpy(np.moveaxis(x, -1, -3).copy())  # noqa: E731
    data = images(ours["x"]), torch.from_numpy(ours["labels"]).long()
    differ = {}
    if case.objective == "jem":
        chains = sample(net, images(ours["start"]), images(ours["noise"]))
        differ["chains"] = deviation([images(ours["chains"])], [chains])
        data = *data, chains
    loss = LOSSES[case.objective](net, *data)
    loss.backward()
    assert part["grads"].keys() == parameters.keys()
    differ["gradient"] = deviation(
        [part["grads"][n].transpose(_axes(part["grads"][n])) for n in parameters],
        [p.grad for p in parameters.values()],
    )
    differ["loss"] = deviation([ours["loss"]], [loss.detach()])
    # A pre-activation that rounds to the other side of 0 moves the gradient by one
    # pixel's part; nothing that is wrong is as small as that.
    assert differ["loss"] < 1e-5 and max(differ.values()) < 1e-3, differ
    return differ


def main(case, path, tuned, compiled):
    differ = check(case, path)
    torch.manual_seed(0)
    layout = torch.channels_last if tuned else torch.contiguous_format
    net = WideResNet(case.depth, case.width).to(memory_format=layout)
    if compiled:
        net = torch.compile(net)
    adam = torch.optim.Adam(net.parameters(), cases.LEARNING_RATE, cases.BETAS)
    shape = (3, 32, 32)
    images = torch.randint(256, (cases.NUM_IMAGES, *shape), dtype=torch.uint8)
    labels = torch.randint(cases.NUM_CLASSES, (cases.NUM_IMAGES,))
    buffer = torch.rand(cases.NUM_CHAINS, *shape) * 2 - 1

    def step():
        index = torch.randint(cases.NUM_IMAGES, (case.batch,))
        x = augment(images, index).contiguous(memory_format=layout)
        data = x, labels[index]
        if case.objective == "jem":
            slot = torch.randint(cases.NUM_CHAINS, (case.batch,))
            fresh = torch.rand(case.batch, *shape) * 2 - 1
            choose = (torch.rand(case.batch) < cases.REINIT_PROB)[:, None, None, None]
            start = torch.where(choose, fresh, buffer[slot])
            noise = (torch.randn_like(start) for _ in range(cases.SGLD_STEPS))
            chains = sample(net, start.contiguous(memory_format=layout), noise)
            buffer[slot] = chains
            data = *data, chains
        loss = LOSSES[case.objective](net, *data)
        if abs(loss.item()) > 1e8:
            raise FloatingPointError(f"loss {loss.item()}")
        adam.zero_grad()
        loss.backward()
        adam.step()

    def run(count):
        for _ in range(count):
            step()

    run(1)
    worker.serve(run, differ=differ)


if __name__ == "__main__":
    main(
        cases.parse(sys.argv[1]),
        sys.argv[2],
        "tuned" in sys.argv[3:],
        "compiled" in sys.argv[3:],
    )
