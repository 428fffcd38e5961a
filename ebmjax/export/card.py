"""The model card of a portable folder: README.md, from config and eval.json."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jinja2

import ebmjax
from ebmjax import keys, portable, runs
from ebmjax.eval.report import run_report
from ebmjax.eval.result import has_images, numbers_of

ENERGIES = {  # terms of E(x)
    name.removeprefix("objective.")
    for name in keys.KEYS
    if name.startswith("objective.")
} - {"cross_entropy", "adversarial"}
TEMPLATE = """\
---
library_name: ebmjax
{% if images %}pipeline_tag: image-classification
{% endif %}tags: [{{ "energy-based-model, " if energies -}}
out-of-distribution-detection, jax, flax]
---

# {{ name }}

{% if energies -%}
A classifier trained as an energy-based model with ebmjax {{ version }}. One network
gives class probabilities p(y | x) and log p(x) up to a constant.
{%- else -%}
A classifier trained with ebmjax {{ version }}. It gives class probabilities p(y | x).
Its logits define log p(x) up to a constant as well, which no term of the objective has
trained.
{%- endif %}
{% if ood -%}
How well log p(x) separates test {{ examples }} from others was measured on the sets
below.
{%- else -%}
Whether log p(x) detects inputs of another kind has not been measured.
{%- endif %}

{{ about }}.
{% if note %}
{{ note }}
{% endif %}{% if picture %}
![Samples]({{ picture }})

*Samples of the replay buffer, none selected
{%- if by_class %}, a column for each class{% endif %}.*
{% endif %}
## Use

```python
import ebmjax{% if samples %}, jax{% endif %}

run = ebmjax.load("{{ address }}")
run.predict_proba(x)  # x: {{ inputs }}
run.log_density(x)  # up to a constant; larger is likelier by the model
{% if samples and chains -%}
run.sample(jax.random.key(0), n=10, steps=20, start=run.buffer[:10])
{% elif samples -%}
run.sample(jax.random.key(0), n=10, steps=20)  # from {{ starts }}
{% endif -%}
```

## Model

| | |
| --- | --- |
{% for row in facts %}| {{ row[0] }} | {{ row[1] }} |
{% endfor %}
Objective, with the weight of each term:

{% for weight, meaning in terms %}* {{ weight }} · {{ meaning }}
{% endfor %}
## Numbers
{% if measures %}
One run with one seed, on the test set of the data above: on its first examples, as many
as the last column says. Distances of samples are of as many samples.

| | | examples |
| --- | --- | --- |
{% for row in measures %}| {{ row | join(" | ") }} |
{% endfor %}{% if ood %}
log p(x) of the test {{ examples }} against each set:

| OOD set | its examples | AUROC, log p(x) |
| --- | --- | --- |
{% for row in ood %}| {{ row.name }} | {{ row.num }} | {{ row.auroc }} |
{% endfor %}{% endif %}
<details><summary>Settings of these numbers</summary>

```json
{{ settings }}
```

</details>
{% else %}
This model has not been evaluated.
{% endif %}{% if quantiles %}
log p(x) of {{ density.num }} {{ density.split }} examples, as quantiles:
{{ quantiles }}.
{% endif %}
## Limits

* log p(x) has an unknown constant: compare values of this model only with each other.
* It was trained on {{ data }} alone. Inputs of another origin, size or processing get
  probabilities too, and these mean little.
{%- if preferred %} log p(x) does not detect {{ preferred }}:
  it is more often larger there than on test {{ examples }} than smaller.
{%- endif %}
* {% if attacks -%}
The accuracies under attack are upper bounds: PGD with {{ attacks.num_steps }} steps and
  {{ attacks.num_restarts }} start{{ "" if attacks.num_restarts == 1 else "s" }}, on {{
  attacks.num_images }} {{ examples }}
  {%- if not autoattack %}; AutoAttack was not run{% endif %}.
{%- else -%}
Its robustness against attacks has not been measured.
{%- endif %}
* {% if calibrated -%}
The calibration errors are those of the test set
  {%- if shifted %}, and under corruptions those of the
  corrupted images{% endif %}; on other data they may be larger.
{%- else -%}
Its calibration has not been measured.
{%- endif %}
{% if own %}* Code of a recipe made its {{ own }}; pass the same `recipe=` to `load`.
{% endif %}
## Files

`config.json`, `model.safetensors` (float32), {% if chains %}`chains.npz` (samples of
the replay buffer), {% endif %}{% if measures %}`eval.json`, {% endif %}`SHA256SUMS`.
They are data: to load the model executes nothing from this folder.
"""


def write(
    run: runs.Run,
    metadata: dict[str, Any],
    results: dict[str, Any],
    files: Iterable[str],
    address: str,
    note: str = "",
) -> str:
    """The card of a run with the `metadata` of its weights and `results` (eval.json).

    `files` are the names of the others in the folder, and `address` is what to load.
    """
    ood = list(_ood(results))
    preferred = [row.name for row in ood if float(row.auroc) < 0.5]
    attacks = numbers_of(results, "attacks")
    trained = {name for name, weight in run.config.objective.items() if weight}
    shape = "×".join(map(str, run.image_shape))
    environment = jinja2.Environment(autoescape=False, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE).render(
        about=run_report.about(results["run"]),
        address=address,
        attacks=attacks,
        autoattack=_has_autoattack(attacks),
        by_class=run.num_blocks > 1,
        calibrated=bool(numbers_of(results, "calibration")),
        chains=portable.CHAINS in files,
        data=results["run"]["data"],
        energies=bool(trained & ENERGIES),
        examples="images" if has_images(run) else "examples",
        facts=list(_facts(run, results["run"])),
        images=has_images(run),
        inputs=f"uint8 [N, {shape.replace('×', ', ')}]"
        if has_images(run)
        else f"vectors [N, {shape}] in the units of the data",
        measures=list(_measures(results)),
        name=address.rstrip("/").rpartition("/")[2],
        note=note,
        ood=ood,
        own=" and ".join(results["run"]["own"]),
        picture=portable.PICTURE if portable.PICTURE in files else "",
        preferred=" or ".join(preferred),
        samples=bool(trained & {"p_x", "p_x_y"}),
        starts="uniform noise"
        if run.config.sgld.init == "uniform" and run.chain_init is None
        else "starts as in training; they may need its data",
        shifted=bool(numbers_of(results, "shift")),
        density=metadata["log_density"],
        quantiles=_quantiles(metadata["log_density"]),
        settings=_settings(results),
        terms=list(_terms(run)),
        version=ebmjax.__version__,
    )


def _facts(run, about) -> Iterable[tuple[str, str]]:
    params = jax.tree.leaves(run.model.variables)
    yield "data", about["data"]
    yield "inputs", "×".join(map(str, run.image_shape))
    yield "classes", _cell(", ".join(run.class_names))
    yield "parameters", f"{sum(x.size for x in params):,}"
    yield "training", f"{run.step:,} steps of {run.config.batch_size} examples"
    yield "changes of training examples", _augmentation(run, about["own"])
    yield "averaged parameters", "yes" if run.ema else "no"


def _augmentation(run, own):
    if "augment" in own:
        return "those of a recipe"
    data, found = run.config.data, []
    if has_images(run):
        found += [f"random crops, padding {data.pad}"] if data.pad else []
        found += ["horizontal flips"] if data.flip else []
    if data.noise_std:
        scale = " in [-1, 1]" if has_images(run) else ""
        found.append(f"Gaussian noise of {data.noise_std:g}{scale}")
    return ", ".join(found) or "none"


def _measures(results) -> Iterable[tuple[str, str, str]]:
    """Name, value and number of examples of each number; of two with one name the
    later, as in the report."""
    rows = {}
    for task in results:
        numbers = numbers_of(results, task) if task != "run" else None
        if numbers:
            text = _num_examples(task, numbers)
            for m in run_report.measures({task: numbers}):
                rows[m.name] = _cell(m.name), m.text(), text
    return [rows[m.name] for m in run_report.measures(results)]


def _num_examples(task, numbers):
    """Empty for a task of one's own that does not say it."""
    if task == "samples":
        num = numbers.get("scores", {}).get("num_samples")
    else:
        num = numbers.get("num_images")
    return f"{num:,}" if isinstance(num, int) else ""


class OODSet(NamedTuple):
    name: str
    num: str
    auroc: str


def _ood(results) -> Iterable[OODSet]:
    """Of each set with an AUROC by log p(x)."""
    for name, found in (numbers_of(results, "ood") or {}).get("sets", {}).items():
        auroc = found.get("scores", {}).get("log_density", {}).get("auroc")
        if auroc is not None:
            text = _cell(name.removesuffix(".npz"))
            yield OODSet(text, f"{found['num_images']:,}", f"{auroc:.3f}")


def _has_autoattack(attacks):
    keys = ("autoattack_eps_linf", "autoattack_eps_l2")
    return bool(attacks) and any(attacks["settings"].get(key) for key in keys)


def _terms(run) -> Iterable[tuple[str, str]]:
    for name, weight in run.config.objective.items():
        if weight:
            key = keys.KEYS.get(f"objective.{name}")
            text = key.doc.removeprefix("weight of ") if key else "a term of a recipe"
            yield f"{weight:g}", f"{name}: {text}"


def _quantiles(density):
    """ "1 %: -3.2, 50 %: 4.1" """
    values = density["quantiles"].items() if density else ()
    return ", ".join(f"{float(q):.0%}: {value:.2f}" for q, value in values)


def _settings(results):
    """A line of JSON for each task that has numbers."""
    settings = {
        name: {"step": numbers["step"], **numbers["settings"]}
        for name in results
        if name != "run" and (numbers := numbers_of(results, name))
    }
    lines = (f" {json.dumps(k)}: {json.dumps(v)}" for k, v in settings.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def _cell(text):
    return text.replace("|", "\\|")
