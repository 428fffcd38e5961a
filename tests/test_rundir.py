"""Run directories: local ones, and in a bucket, gs://, of a server on this machine."""

import concurrent.futures
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

from ebmjax import config, rundir, train


def test_a_local_path_becomes_absolute():
    assert rundir.folder("runs/jem") == pathlib.Path.cwd() / "runs" / "jem"


def test_a_path_in_the_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("~/runs/x", pathlib.Path("~/runs/x")):
        assert rundir.folder(name) == rundir.expand(name) == tmp_path / "runs" / "x"
    assert rundir.expand("gs://bucket/~") == rundir.folder("gs://bucket/~")
    with pytest.raises(ValueError, match="~nobody-here has no home.*write ./~nobody"):
        rundir.folder("~nobody-here/x")
    with pytest.raises(ValueError, match="the path is empty"):
        rundir.folder("")


@pytest.mark.parametrize("workdir", ["s3://bucket/run", "az://bucket/run"])
def test_buckets_that_cannot_hold_a_run_are_refused(workdir):
    with pytest.raises(ValueError, match=f"{workdir}: a run directory is a local path"):
        rundir.folder(workdir)


def test_a_missing_gcsfs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match="pip install 'ebmjax\\[gcs\\]'"):
        rundir.folder("gs://bucket/run")


def test_paths_that_storage_reads_otherwise_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\\b: .* must not contain a backslash"):
        rundir.folder(tmp_path / "a\\b")
    with pytest.raises(
        ValueError, match=r"lr\[0.1\]: a run directory in a bucket must"
    ):
        rundir.folder("gs://bucket/lr[0.1]")


def test_a_file_is_written_whole_and_grows(tmp_path):
    path = rundir.folder(tmp_path) / "log"
    rundir.write(path, "one\n")
    rundir.append(path, "two\n")
    assert path.read_text() == "one\ntwo\n"
    rundir.write(path, b"three\n")
    assert path.read_text() == "three\n" and os.listdir(tmp_path) == ["log"]


def test_many_may_write_a_file_at_the_same_time(tmp_path):
    path = rundir.folder(tmp_path) / "eval.json"
    contents = [f"{i}" * 100_000 for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda text: rundir.write(path, text), contents * 5))
    assert path.read_text() in contents
    assert os.listdir(tmp_path) == ["eval.json"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        rundir.write(rundir.folder(tmp_path) / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_directory_that_cannot_be_written_is_noticed(tmp_path):
    rundir.check_writable(tmp_path / "new")
    assert os.listdir(tmp_path) == ["new"] and os.listdir(tmp_path / "new") == []
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match=f"{workdir} cannot be written .*--workdir"):
            rundir.check_writable(workdir)


def test_a_read_only_directory_is_noticed(tmp_path):
    """By a user who is not root, to whom permissions mean nothing."""
    tmp_path.chmod(0o555)
    code = """
import os, sys
from ebmjax import rundir
if os.getuid() == 0:
    os.setuid(65534)
rundir.check_writable(sys.argv[1])
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=programs.ROOT, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"OSError: {tmp_path} cannot be written (Permission denied)")


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    path = tmp_path / "lock"
    with rundir.lock(path):
        with pytest.raises(TimeoutError, match="lock is locked by another program"):
            with rundir.lock(path, timeout=0.1):
                pass
        code = f"from ebmjax import rundir\nwith rundir.lock({str(path)!r}): pass"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=programs.ROOT, capture_output=True)
        assert b"TimeoutError" in done.stderr
    with rundir.lock(path):
        pass
    with rundir.lock("gs://bucket/lock"), rundir.lock("gs://bucket/lock"):
        pass  # where nothing can be locked


def test_a_damaged_config_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run directory: it has no"):
        rundir.read_config(tmp_path)
    for text in (b"{", b"[]", b"\xff", b'{"nothing": 1}'):
        (tmp_path / rundir.CONFIG).write_bytes(text)
        with pytest.raises(ValueError, match="config.json cannot be read: "):
            rundir.read_config(tmp_path)


def test_a_run_keeps_what_is_fixed(tmp_path):
    c = config.default()
    with rundir.lock_workdir(tmp_path, c):
        with pytest.raises(ValueError, match="another program is training in"):
            with rundir.lock_workdir(tmp_path, c):
                pass
    assert config.to_json(rundir.read_config(tmp_path)) == config.to_json(c)
    c.seed = 7
    with rundir.lock_workdir(tmp_path, c):  # as long as there is no checkpoint
        (tmp_path / rundir.CHECKPOINTS / "4").mkdir(parents=True)
    c.seed = 8
    with pytest.raises(ValueError, match="run with config.seed=7, not 8; choose"):
        with rundir.lock_workdir(tmp_path, c):
            pass
    c.seed, c.num_steps = 7, 9
    with rundir.lock_workdir(tmp_path, c):
        assert rundir.read_config(tmp_path).num_steps == 9


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
    output = programs.run(workdir, "--config.tensorboard", **how)
    assert "step 6/8" in output and "step 2/" not in output
    few = "--eval.samples.num_chains=20"
    output = programs.run(workdir, "--tasks=samples", few, evaluation=True, **how)
    assert f"results written to {workdir}" in output

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
