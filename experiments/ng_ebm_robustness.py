"""NG-EBM's attack figure: robustness, with a classifier's and JEM's.

    python -m experiments.ng_ebm_robustness --train [--small]

The paper's curves, L∞ up to 20/255 and L2 up to 250/255, attack classifiers that first
refine the image by one SGLD step: JEM-1 here.
"""

from experiments import common, jem_robustness
from experiments.common import Spec

PARTS = jem_robustness.PARTS


def specs(small):
    return [Spec("classifier"), Spec("jem"), Spec("ng_ebm")]


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, jem_robustness.report)
