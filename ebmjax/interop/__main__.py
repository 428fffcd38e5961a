"""Official PyTorch checkpoints of JEM and NG-EBM, read and written.

python -m ebmjax.interop CKPT.pt --workdir=DIR             makes a run of a checkpoint
python -m ebmjax.interop CKPT.pt --workdir=DIR --to-torch  writes a run to a checkpoint

A checkpoint is {"model_state_dict", "replay_buffer"}, the same without the buffer, or a
bare state dict. It is read as data: nothing in the file is executed. --config gives the
data set and what further training needs. Without it the run is JEM on CIFAR-10 or
CIFAR-100 if there is a replay buffer, else a classifier.
"""

from absl import app, flags

from ebmjax import cli, interop


def main(argv):
    args = flags.FLAGS
    if len(argv) < 2 or not args.workdir:
        raise ValueError("usage: python -m ebmjax.interop CKPT.pt --workdir=DIR")
    if argv[2:] and args.config is None:
        raise ValueError(cli.unexpected(argv[2]))
    c = cli.load_config(args.config, argv[2:]) if args.config else None
    if args["to-torch"].value:
        interop.export_run(args.workdir, argv[1])
    else:
        print(interop.make_run(argv[1], args.workdir, c, norm=args.norm))


if __name__ == "__main__":
    flags.DEFINE_string("config", None, "the config of the new run, as for ebmjax.main")
    flags.DEFINE_string("workdir", None, "the run directory")
    flags.DEFINE_enum(
        "norm", None, ("instance", "layer"), "if the tensors leave it open"
    )
    flags.DEFINE_bool("to-torch", False, "write CKPT.pt from the run")
    app.run(cli.report_errors(main), flags_parser=cli.parse)
