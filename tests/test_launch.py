"""experiments/launch: well-formed, and with the command that the tests run."""

import re
import shlex
import signal
import subprocess

import programs
import pytest
import yaml

from ebmjax import cli, parallel

FOLDER = programs.ROOT / "experiments" / "launch"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
MANIFESTS = sorted(FOLDER.glob("*.yaml"))


def shape(command):
    """Without values of flags, and with config overrides left out."""
    words = [word.split("=")[0] for word in command]
    return {word for word in words if not word.startswith("--config.")}


def commands(path):
    """The Python commands of a file of experiments/launch."""
    if path.suffix == ".yaml":
        return [container["command"] for container in containers(path)]
    lines = re.findall(r"python -m .*", path.read_text())
    return [shlex.split(line.rstrip('"').replace('"', "")) for line in lines]


def containers(path):
    def found(node):
        children = node.values() if isinstance(node, dict) else node
        for child in children if isinstance(node, dict | list) else ():
            yield from found(child)
        if isinstance(node, dict):
            yield from node.get("containers", ())

    for document in yaml.safe_load_all(path.read_text()):
        yield from found(document)


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=lambda path: path.name)
def test_the_command_is_the_one_that_two_processes_are_tested_with(path):
    tested = programs.command("DIR", devices=1, processes=2)
    assert tested[1:3] == ["-m", "ebmjax.main"]
    (found,) = commands(path)
    assert found[:3] == ["python", *tested[1:3]]
    assert shape(found[3:]) == shape(tested[3:])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(path):
    subprocess.run(["bash", "-n", path], check=True)


def test_slurm_requeues_what_was_saved():
    text = (FOLDER / "slurm.sh").read_text()
    code = cli.exit_code(signal.SIGTERM)
    assert f'"$code" -eq {code} ]; then\n    scontrol requeue' in text


def test_kubernetes_tells_each_pod_who_it_is():
    service, job = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    spec, name = job["spec"], service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert spec["template"]["spec"]["subdomain"] == name
    (container,) = spec["template"]["spec"]["containers"]
    env = {x["name"]: x.get("value") for x in container["env"]}
    told = {"JAX_COORDINATOR_ADDRESS", parallel.NUM_PROCESSES, parallel.PROCESS_ID}
    assert set(env) == told
    first = f"{job['metadata']['name']}-0.{name}:"
    assert env["JAX_COORDINATOR_ADDRESS"].startswith(first)
    assert int(env[parallel.NUM_PROCESSES]) == spec["completions"]
    assert spec["parallelism"] == spec["completions"]
    ignored = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert ignored["values"] == [cli.exit_code(signal.SIGTERM)]
    assert ignored["containerName"] == container["name"]


def test_a_tpu_slice_has_a_pod_a_host():
    (jobset,) = yaml.safe_load_all((FOLDER / "gke_tpu.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    selector = spec["template"]["spec"]["nodeSelector"]
    rows, columns = selector["cloud.google.com/gke-tpu-topology"].split("x")
    (container,) = spec["template"]["spec"]["containers"]
    chips = int(container["resources"]["limits"]["google.com/tpu"])
    assert int(rows) * int(columns) == chips * spec["completions"]
    assert spec["parallelism"] == spec["completions"]
