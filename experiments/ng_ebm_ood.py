"""NG-EBM's out-of-distribution figure: AUROC, with a classifier's and JEM's.

    python -m experiments.ng_ebm_ood --train [--small]

The paper shows histograms and no table. JEM's rows are those of its Table 3.
"""

from experiments import common, jem_ood
from experiments.common import Spec

PARTS = jem_ood.PARTS


def specs(small):
    return [Spec("classifier"), Spec("jem"), Spec("ng_ebm")]


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, jem_ood.report)
