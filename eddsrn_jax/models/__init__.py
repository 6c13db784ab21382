"""Networks, one file each, and the functions that work with any of them.

A network maps a batch of images, float RGB [N, h, w, 3] in [0, 1], to images by name:
"sr" (four times as large), "deblurred" (the same size), or both. It may also return
luminance, which the training loss compares in place of "sr" (see training/losses.py).
Every network has three attributes:

- `dtype`: the dtype that it computes in.
- `stride`: height and width are extended to a multiple of this.
- `receptive_radius`: radius of the receptive field in pixels of the small image, measured
  from a multiple of `stride`.

It may have a fourth one, `halo`: the surroundings, in pixels of the small image, with
which a window is restored as in the whole photo. By default it is the receptive radius.

All arrays of a network form one tree, `params`: the trained parameters and, with batch
norm, its running statistics.
"""

from eddsrn_jax.models.deblur_cnn import DeblurCNN
from eddsrn_jax.models.eddsrn import EDDSRN, SCALE, STRIDE
from eddsrn_jax.models.edsr import EDSR
from eddsrn_jax.models.half_size import HalfSizeEDDSRN
from eddsrn_jax.models.lapsrn import LapSRN
from eddsrn_jax.models.registry import (
    NETWORKS,
    abstract_outputs,
    abstract_params,
    apply,
    import_network,
    init_params,
    join_params,
    make_network,
    network_fields,
    network_name,
    split_params,
)
from eddsrn_jax.models.scgan import SCGAN
from eddsrn_jax.models.srresnet import SRResNet
from eddsrn_jax.models.vdsr import VDSR

__all__ = [
    "EDDSRN",
    "EDSR",
    "NETWORKS",
    "SCALE",
    "SCGAN",
    "STRIDE",
    "VDSR",
    "DeblurCNN",
    "HalfSizeEDDSRN",
    "LapSRN",
    "SRResNet",
    "abstract_outputs",
    "abstract_params",
    "apply",
    "import_network",
    "init_params",
    "join_params",
    "make_network",
    "network_fields",
    "network_name",
    "split_params",
]
