"""Writes the model card of a folder of weights."""

import textwrap
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from eddsrn_jax.models import abstract_outputs
from eddsrn_jax.models.complexity import count_parameters
from eddsrn_jax.paths import printable

# The lines between the dashes are for model hubs.
_CARD = """\
---
library_name: eddsrn_jax
pipeline_tag: image-to-image
tags: [super-resolution, deblurring, jax]
---

# {name}

{summary}

## Use

```python
from PIL import Image
from eddsrn_jax import Restorer

# The path of this folder, or the name of its repository on a model hub.
restorer = Restorer.from_pretrained("FOLDER")
restorer(Image.open("photo.jpg")).{output}.save("result.png")
```

## Files

- `model.safetensors`: the parameters, stored in {dtype}.
- `config.json`: the network, its arguments, and the blurs that it was trained for.
"""
_SUMMARY = """\
This network takes a small photo that is blurred with a Gaussian of sigma {low:g} to
{high:g} pixels. It returns {outputs}. It is the network `{network}` of eddsrn_jax with
{count:,} parameters, after {step:,} steps of training.
"""
_OUTPUTS = {
    "sr": "a sharp photo that is four times as wide and high",
    "deblurred": "a deblurred photo of the same size",
}


def make_card(
    model: nn.Module, params: Any, description: Mapping[str, Any], *, dtype: str
) -> str:
    """Returns a model card in Markdown, with a head that model hubs read.

    Args:
        model: network.
        params: network parameters.
        description: name, network, step and sigma_range.
        dtype: type of the parameters in the file.
    """
    names = [name for name in _OUTPUTS if name in abstract_outputs(model)]
    low, high = description["sigma_range"]
    summary = _SUMMARY.format(
        low=low,
        high=high,
        outputs=" and ".join(_OUTPUTS[name] for name in names),
        network=description["network"],
        count=count_parameters(params),
        step=description["step"],
    )
    return _CARD.format(
        name=printable(description["name"]),
        summary=textwrap.fill(summary, 88, break_on_hyphens=False),
        output=names[0],
        dtype=dtype,
    )
