"""The folder that `python -m ebmjax.push` uploads to the Hugging Face Hub."""

import contextlib
import tempfile
from collections.abc import Iterator

from ebmjax import cli


@contextlib.contextmanager
def portable_folder(
    workdir: str,
    repository: str,
    *,
    note: str = "",
    data_dir: str | None = None,
    config: str | None = None,
) -> Iterator[str]:
    """The folder to upload: `workdir` itself, or a temporary one of the run in it."""
    from ebmjax import export, portable

    if portable.is_portable(workdir):
        yield workdir
        return
    run = cli.load_run(workdir, data_dir=data_dir, config=config)
    with tempfile.TemporaryDirectory() as folder:
        export.to_folder(run, folder, address=f"hf://{repository}", note=note)
        yield folder
