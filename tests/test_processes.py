"""How a program finds out whether it is one of several; see also test_distributed."""

import os
import subprocess
import sys

import programs
import pytest

from ebmjax import processes

NAMES = (
    *("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"),
    *("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"),
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "name, one, several",
    [
        ("JAX_NUM_PROCESSES", "1", "2"),
        ("SLURM_STEP_NUM_TASKS", "", "16"),
        ("OMPI_COMM_WORLD_SIZE", "1", "3"),
        ("TPU_WORKER_HOSTNAMES", "a", "a,b"),
    ],
)
def test_a_launcher_is_known_by_its_variable(name, one, several, monkeypatch):
    assert processes.multi_process_variable() is None
    monkeypatch.setenv(name, one)
    assert processes.multi_process_variable() is None
    monkeypatch.setenv(name, several)
    assert processes.multi_process_variable() == f"{name}={several}"


def test_a_number_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2(x3)")
    with pytest.raises(ValueError, match=r"TASKS is '2\(x3\)', .* --nodistributed"):
        processes.multi_process_variable()


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_STEP_NUM_TASKS": "2"},  # an interactive shell, or a copied environment
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "localhost:1"},
        {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "x"},
        {  # no port
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "0",
            "JAX_COORDINATOR_ADDRESS": "localhost",
        },
    ],
)
def test_an_incomplete_launch_is_named_with_a_remedy(variables):
    code = "from ebmjax import processes; processes.start(timeout=20)"
    environment = {x: y for x, y in os.environ.items() if x not in NAMES} | variables
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=programs.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    name, value = next(iter(variables.items()))
    assert last.startswith(f"ValueError: {name}={value} asks for several processes")
    assert last.endswith("to use this process alone, add --nodistributed")


def test_cores_are_counted_where_the_system_has_no_affinity(monkeypatch):
    assert 1 <= processes._num_cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processes._num_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processes._num_cores() == 1
