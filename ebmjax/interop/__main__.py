"""Official PyTorch checkpoints of JEM and NG-EBM, read and written.

python -m ebmjax.interop CKPT.pt --workdir=DIR             makes a run of a checkpoint
python -m ebmjax.interop CKPT.pt --workdir=DIR --to-torch  writes a run to a checkpoint

A checkpoint is {"model_state_dict", "replay_buffer"}, the same without the buffer, or a
bare state dict. It is read as data: nothing in the file is executed. --config gives the
data set and what further training needs. Without it the run is JEM on CIFAR-10 or
CIFAR-100 if there is a replay buffer, else a classifier.
"""

from absl import app, flags
from ml_collections import config_flags

from ebmjax import cli, interop


def main(argv):
    args = flags.FLAGS
    if len(argv) != 2 or not args.workdir:
        raise ValueError("usage: python -m ebmjax.interop CKPT.pt --workdir=DIR")
    if args["to-torch"].value:
        interop.export_run(args.workdir, argv[1])
    else:
        print(interop.make_run(argv[1], args.workdir, args.config, norm=args.norm))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", help_string="the config of the new run")
    flags.DEFINE_string("workdir", None, "the run directory")
    flags.DEFINE_enum(
        "norm", None, ("instance", "layer"), "if the tensors leave it open"
    )
    flags.DEFINE_bool("to-torch", False, "write CKPT.pt from the run")
    app.run(cli.one_sentence(main), flags_parser=cli.parse)
