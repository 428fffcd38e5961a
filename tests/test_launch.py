"""experiments/launch: by its schemas, and with the command that the tests run."""

import copy
import re
import shlex
import signal
import subprocess
import sysconfig

import programs
import pydantic
import pytest
import yaml
from kubeflow_trainer_api import models

from ebmjax import processes, signals

FOLDER = programs.ROOT / "experiments" / "launch"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
SCHEMAS = {
    ("v1", "Service"): models.IoK8sApiCoreV1Service,
    ("batch/v1", "Job"): models.IoK8sApiBatchV1Job,
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): models.JobsetV1alpha2JobSet,
}
QUANTITY = re.compile(r"[0-9.]+([kMGT]i?|m)?")
OPEN = [("annotations",), ("selector",), ("nodeSelector",), ("limits",)]  # any keys


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


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
    for document in documents(path):
        for where in paths(document):
            if where[-2:-1] == ("containers",):
                yield at(document, where)


def faults(document):
    """Where it is not what Kubernetes' and JobSet's API take."""
    document = copy.deepcopy(document)
    for path in paths(document):
        # The models want a quantity to be an object, of which they know no key.
        if path[-2:-1] == ("limits",):
            value = at(document, path)
            if isinstance(value, str) and QUANTITY.fullmatch(value):
                at(document, path[:-1])[path[-1]] = {}
    schema = SCHEMAS[document.get("apiVersion"), document.get("kind")]
    strictly = dict(extra="forbid", by_alias=True, by_name=False)
    try:
        schema.model_validate(document, **strictly)
    except pydantic.ValidationError as error:
        return [f"{fault['loc']}: {fault['msg']}" for fault in error.errors()]
    return []


def paths(node, here=()):
    """To every value of a document."""
    children = ()
    if isinstance(node, dict | list):
        children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in children:
        yield (*here, key)
        yield from paths(child, (*here, key))


def at(document, path):
    for key in path:
        document = document[key]
    return document


def changed(document, path, value, key=None):
    """A copy with another value there, or another key."""
    document = copy.deepcopy(document)
    parent = at(document, path[:-1])
    del parent[path[-1]]
    if isinstance(parent, list):
        parent.insert(path[-1], value)
    else:
        parent[key or path[-1]] = value
    return document


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=lambda path: path.name)
def test_the_command_is_the_one_that_two_processes_are_tested_with(path):
    tested = programs.command("DIR", devices=1, processes=2)
    assert tested[1:3] == ["-m", "ebmjax.main"]
    (found,) = commands(path)
    assert found[:3] == ["python", *tested[1:3]]
    assert shape(found[3:]) == shape(tested[3:])


def shellcheck(script):
    program = f"{sysconfig.get_path('scripts')}/shellcheck"
    done = subprocess.run([program, "-"], input=script, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(path):
    script = path.read_text()
    assert shellcheck(script) == ""
    bare = re.sub(r'"(\$\w+)"', r"\1", script, count=1)
    assert "Double quote to prevent" in shellcheck(bare)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_their_api_takes(path):
    for document in documents(path):
        assert faults(document) == []


def test_what_is_wrong_with_a_manifest_is_said():
    _, job = documents(FOLDER / "kubernetes.yaml")
    pod = ("spec", "template", "spec")
    (fault,) = faults(changed(job, (*pod, "restartPolicy"), "never"))
    assert "'restartPolicy'" in fault and "('Always', 'Never'" in fault
    nameless = changed(job, (*pod, "containers", 0), {"image": "ebmjax"})
    (fault,) = faults(nameless)
    assert "'containers', 0, 'name'" in fault and "required" in fault


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_no_key_can_be_misspelt_and_no_type_mistaken(path):
    for document in documents(path):
        for where in paths(document):
            if where in (("apiVersion",), ("kind",)):  # by which the schema is found
                continue
            value = at(document, where)
            other = 7 if isinstance(value, str) else "seven"
            assert faults(changed(document, where, other)), where
            if isinstance(where[-1], str) and where[-2:-1] not in OPEN:
                key = where[-1] + "s"
                assert faults(changed(document, where, value, key)), where


def test_slurm_requeues_what_was_saved():
    text = (FOLDER / "slurm.sh").read_text()
    code = signals.exit_code(signal.SIGTERM)
    assert f'"$code" -eq {code} ]; then\n    scontrol requeue' in text


def test_kubernetes_tells_each_pod_who_it_is():
    service, job = documents(FOLDER / "kubernetes.yaml")
    spec, name = job["spec"], service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert spec["template"]["spec"]["subdomain"] == name
    (container,) = spec["template"]["spec"]["containers"]
    env = {x["name"]: x.get("value") for x in container["env"]}
    told = {"JAX_COORDINATOR_ADDRESS", processes.NUM_PROCESSES, processes.PROCESS_ID}
    assert set(env) == told
    first = f"{job['metadata']['name']}-0.{name}:"
    assert env["JAX_COORDINATOR_ADDRESS"].startswith(first)
    assert int(env[processes.NUM_PROCESSES]) == spec["completions"]
    assert spec["parallelism"] == spec["completions"]
    ignored = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert ignored["values"] == [signals.exit_code(signal.SIGTERM)]
    assert ignored["containerName"] == container["name"]


def test_a_tpu_slice_has_a_pod_a_host():
    (jobset,) = documents(FOLDER / "gke_tpu.yaml")
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    selector = spec["template"]["spec"]["nodeSelector"]
    rows, columns = selector["cloud.google.com/gke-tpu-topology"].split("x")
    (container,) = spec["template"]["spec"]["containers"]
    chips = int(container["resources"]["limits"]["google.com/tpu"])
    assert int(rows) * int(columns) == chips * spec["completions"]
    assert spec["parallelism"] == spec["completions"]
