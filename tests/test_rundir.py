"""A run directory in a bucket: gs://, here of a server of this machine."""

import os
import pathlib
import subprocess
import sys
import urllib.request

import chex
import digits_mlp
import jax
import programs
import pytest
from test_train import numbers_of, state_of

from ebmjax import rundir, train


def test_a_local_path_becomes_absolute():
    assert rundir.folder("runs/jem") == pathlib.Path.cwd() / "runs" / "jem"


@pytest.mark.parametrize("workdir", ["s3://bucket/run", "az://bucket/run"])
def test_buckets_that_cannot_hold_a_run_are_refused(workdir):
    with pytest.raises(ValueError, match=f"{workdir}: a run is kept in a local path"):
        rundir.folder(workdir)


def test_a_missing_gcsfs_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match="pip install 'ebmjax\\[gcs\\]'"):
        rundir.folder("gs://bucket/run")


def test_a_file_is_written_whole_and_grows(tmp_path):
    path = rundir.folder(tmp_path) / "log"
    rundir.write(path, "one\n")
    rundir.append(path, "two\n")
    assert path.read_text() == "one\ntwo\n"
    rundir.write(path, b"three\n")
    assert path.read_text() == "three\n" and os.listdir(tmp_path) == ["log"]


@pytest.fixture(scope="module")
def bucket():
    """A server of gs://bucket; the environment in which programs find it."""
    port = programs.free_port()
    command = [sys.executable, "tests/bucket_server.py", f"{port}"]
    server = subprocess.Popen(command, cwd=programs.ROOT, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def is_up():
        try:
            return urllib.request.urlopen(url, timeout=1)
        except OSError:
            return False

    try:
        programs.until(is_up, [])
        yield {
            "STORAGE_EMULATOR_HOST": url,  # gcsfs's, the next two as well
            "FSSPEC_GCS": '{"token": "anon"}',
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "anybody",
        }
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run on a disk, by the four devices of this process."""
    workdir = tmp_path_factory.mktemp("alone")
    train.fit(digits_mlp.get_config(), str(workdir))
    return workdir


def fetched(workdir, folder, bucket):
    """A copy on the disk."""
    path = workdir.removeprefix("gs://")
    get = f"gcsfs.GCSFileSystem().get({path!r}, {str(folder)!r}, recursive=True)"
    command = [sys.executable, "-c", f"import gcsfs; {get}"]
    subprocess.run(command, env=os.environ | bucket, check=True)
    return folder


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_run_on_a_disk(bucket, alone, tmp_path):
    workdir = "gs://bucket/run"
    how = dict(devices=4, surroundings={0: bucket}, logs=tmp_path / "log")
    programs.run(workdir, "--config.num_steps=4", programs.NO_EVAL, **how)
    told = programs.run(workdir, "--config.tensorboard", **how)
    assert "step 6/8" in told and "step 2/" not in told
    few = "--eval.samples.num_chains=20"
    told = programs.run(workdir, "--parts=samples", few, evaluation=True, **how)
    assert f"all of it is in {workdir}" in told

    copy = fetched(workdir, tmp_path / "copy", bucket)
    assert numbers_of(copy) == numbers_of(alone)
    chex.assert_trees_all_equal(state_of(copy), state_of(alone))
    assert {"classification", "samples"} < programs.results(copy).keys()
    assert "data:image/png" in (copy / "report.html").read_text()
    assert (copy / "eval" / "chains.png").exists()
    assert (copy / "samples" / "0000004.png").exists()
    assert list(copy.glob("events.out.tfevents*"))
    assert not (programs.ROOT / "gs:").exists()  # where a resolved path would lead


@pytest.mark.slow
def test_two_processes_write_into_a_bucket(bucket, alone, tmp_path):
    workdir, ours = "gs://bucket/together", {0: bucket, 1: bucket}
    how = dict(devices=2, processes=2, surroundings=ours, logs=tmp_path / "log")
    programs.run(workdir, **how)
    copy = fetched(workdir, tmp_path / "copy", bucket)
    assert "accuracy" in programs.results(copy)["classification"]
    together, by_one = (jax.tree.leaves(state_of(x)[1]) for x in (copy, alone))
    chex.assert_trees_all_close(together, by_one, rtol=1e-4, atol=1e-5)
