"""What is timed: an objective on a Wide-ResNet, and the arithmetic that it takes."""

from typing import NamedTuple

OBJECTIVES = {  # the weights of `ebmjax.objectives.Weights`
    "classifier": dict(cross_entropy=1.0),
    "ng_ebm": dict(cross_entropy=1.0, energy_variance=1.0, approximate_mass=1.0),
    "jem": dict(cross_entropy=1.0, p_x=1.0),
}
SGLD_STEPS = 20
STEP_SIZE = 1.0
CHAIN_NOISE = 0.01
REINIT_PROB = 0.05
NUM_CHAINS = 10_000
NUM_IMAGES = 10_000  # of the training set, random ones
NUM_CLASSES = 10
PAD = 4
INPUT_NOISE = 0.03
LEARNING_RATE = 1e-4
BETAS = (0.9, 0.999)


class Case(NamedTuple):
    objective: str
    depth: int
    width: int
    batch: int

    def __str__(self):
        return f"{self.objective} WRN-{self.depth}-{self.width} B{self.batch}"


def parse(text: str) -> Case:
    """ "jem,10,1,64"."""
    objective, *numbers = text.split(",")
    return Case(objective, *map(int, numbers))


class Layer(NamedTuple):
    """A convolution: image side, kernel side, stride, channels in and out."""

    image: int
    kernel: int
    stride: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:  # of an image's forward pass
        pixels = (self.image // self.stride) ** 2
        return 2 * pixels * self.kernel**2 * self.inputs * self.outputs


def layers(depth: int, width: int) -> list[Layer]:
    """Every convolution of a Wide-ResNet on 32x32 RGB images."""
    found, image, channels = [Layer(32, 3, 1, 3, 16)], 32, 16
    for group in range(3):
        features = 16 * width * 2**group
        for block in range((depth - 4) // 6):
            stride = 2 if group and not block else 1
            found.append(Layer(image, 3, 1, channels, features))
            found.append(Layer(image, 3, stride, features, features))
            if stride != 1 or channels != features:
                found.append(Layer(image, 1, stride, channels, features))
            image, channels = image // stride, features
    return found


def step_flops(case: Case) -> int:
    """Of the convolutions that a step needs, each counted in its plain form.

    In units of one forward pass: a classifier's step takes 3 (forward, input and
    weight gradient). NG-EBM adds the input gradient and the tangent of the forward
    pass, and another weight gradient: 6. JEM adds 3 for the chains' last state, and
    2 for every SGLD step. A third pass of the data, which the official loop makes, is
    not needed and not counted.
    """
    units = {"classifier": 3, "ng_ebm": 6, "jem": 6 + 2 * SGLD_STEPS}[case.objective]
    forward = sum(layer.flops for layer in layers(case.depth, case.width))
    return units * case.batch * forward
