# What type checkers and editors see of the names that __init__.py loads lazily.
from ebmjax import augment as augment
from ebmjax import config as config
from ebmjax import data as data
from ebmjax import energy as energy
from ebmjax import eval as eval
from ebmjax import export as export
from ebmjax import hub as hub
from ebmjax import interop as interop
from ebmjax import losses as losses
from ebmjax import metrics as metrics
from ebmjax import models as models
from ebmjax import objectives as objectives
from ebmjax import optim as optim
from ebmjax import presets as presets
from ebmjax import recipe as recipe
from ebmjax import replay as replay
from ebmjax import runs as runs
from ebmjax import sgld as sgld
from ebmjax import train as train
from ebmjax import train_step as train_step
from ebmjax import writers as writers
from ebmjax.data import Dataset as Dataset
from ebmjax.data import Splits as Splits
from ebmjax.eval.evaluate import evaluate as evaluate
from ebmjax.eval.other_classifiers import Logits as Logits
from ebmjax.objectives import Term as Term
from ebmjax.recipe import Recipe as Recipe
from ebmjax.runs import load as load
from ebmjax.train import fit as fit
from ebmjax.writers import Writer as Writer

__version__: str
