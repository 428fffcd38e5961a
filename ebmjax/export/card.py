"""The model card of a portable folder: README.md, from config and eval.json."""

import json
from collections.abc import Iterable
from typing import Any

import jax
import jinja2

import ebmjax
from ebmjax import keys, portable, runs
from ebmjax.eval.report import run_report
from ebmjax.eval.result import has_images, numbers_of

TEMPLATE = """\
---
library_name: ebmjax
{% if images %}pipeline_tag: image-classification
{% endif %}tags: [energy-based-model, out-of-distribution-detection, jax, flax]
---

# {{ name }}

A classifier trained as an energy-based model with ebmjax {{ version }}. One network
gives class probabilities p(y | x) and log p(x) up to a constant, which tells how usual
an input is.

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
import ebmjax, jax

run = ebmjax.load("{{ address }}")
run.predict_proba(x)  # x: {{ inputs }}
run.log_density(x)  # larger is more usual
run.sample(jax.random.key(0), n=10, steps=20)
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
One run with one seed, on the test set of the data above.

| | |
| --- | --- |
{% for row in measures %}| {{ row[0] }} | {{ row[1] }} |
{% endfor %}
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
  probabilities too, and these mean little; log p(x) recognises only some of them.
  Judge it by the sets in the table above, and by your own.
* Unless the table has numbers of attacks, nothing is known about its robustness.
* The probabilities are as calibrated as the table says, on data like the test set.
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
    measures = [(_cell(m.name), m.text()) for m in run_report.measures(results)]
    shape = "×".join(map(str, run.image_shape))
    environment = jinja2.Environment(autoescape=False, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE).render(
        about=run_report.about(results["run"]),
        address=address,
        by_class=run.num_blocks > 1,
        chains=portable.CHAINS in files,
        data=results["run"]["data"],
        facts=list(_facts(run, results["run"])),
        images=has_images(run),
        inputs=f"uint8 [N, {shape.replace('×', ', ')}]"
        if has_images(run)
        else f"vectors [N, {shape}] in the units of the data",
        measures=measures,
        name=address.rstrip("/").rpartition("/")[2],
        note=note,
        own=" and ".join(results["run"]["own"]),
        picture=portable.PICTURE if portable.PICTURE in files else "",
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
    yield "averaged parameters", "yes" if run.ema else "no"


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
