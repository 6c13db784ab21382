"""The methods of the paper's Table 1, scored side by side.

    python evaluate.py --config=configs/table1.py --dataset=Set14=DIR

At "lite" size, the default, all networks were trained with the same recipe on the same
number of crops (see configs/sizes.py). A fine-tuned network was trained on as many crops
without blur before. The weights are in eddsrn_jax/weights/table1 of the repository; a
wheel does not have them. At "full" size, `configs/table1.py:full`, no network has been
trained here; the table lists the commands that train them.
"""

from pathlib import Path
from typing import Any

import ml_collections

import eddsrn_jax
from configs.sizes import of_size

# The weights of the lite networks.
_WEIGHTS = Path(eddsrn_jax.__file__).parent / "weights" / "table1"
# The paper's scores on its DIV2K validation set and on Set14: PSNR in dB, and the SSIM of
# the two methods that have one.
_PAPER = {
    "srresnet": (22.6978, 21.7681),
    "lapsrn": (22.7343, 21.7878),
    "vdsr": (22.7421, 21.7877),
    "edsr": (22.7508, 21.7933),
    "deblur_cnn_srresnet": (22.5109, 21.5640),
    "deblur_cnn_lapsrn": (22.5915, 21.6191),
    "deblur_cnn_vdsr": (22.5208, 21.6090),
    "deblur_cnn_edsr": (22.5363, 21.6200),
    "srresnet_finetuned": (23.9431, 22.9713),
    "lapsrn_finetuned": (23.0812, 22.0166),
    "scgan": (21.7681, 21.9028),
    "edsrn": (25.4688, 24.8101),
    "eddsrn": (25.7005, 25.0131),
}
_PAPER_SSIM = {"edsrn": (0.6927, 0.6426), "eddsrn": (0.6994, 0.6503)}
_SUPER_RESOLUTION = {"srresnet": "SRResNet", "lapsrn": "LapSRN"} | {
    "vdsr": "VDSR",
    "edsr": "EDSR",
}
_JOINT = {
    "srresnet_finetuned": "SRResNet",
    "lapsrn_finetuned": "LapSRN",
    "scgan": "SCGAN",
    "edsrn": "ED-SRN",
    "eddsrn": "ED-DSRN",
}
# 2,500 steps of eight 192 x 192 crops, 20,000 crops in all.
_BUDGET = "--config.total_steps=2500 --config.model.dtype=bfloat16"


def get_config(size: str = "lite") -> ml_collections.ConfigDict:
    """Returns the table's rows, with networks of a size, "lite" or "full".

    Each row has a title and a method. "bicubic", "wiener" and "dark_channel" need nothing
    else. A "network" has weights (a file or a run's workdir) and the command that makes
    them. A "peer" is a network with published weights of others, see --peers. A "cascade"
    applies two other rows in turn.
    """
    of_size(size)
    rows = {
        "bicubic": _row("bicubic", "bicubic"),
        "wiener": _row("Wiener, told sigma; then bicubic", "wiener"),
        "dark_channel": _row("DarkChannel", "dark_channel"),
        "vdsr_peer": _row("VDSR, published weights", "peer", peer="VDSR"),
        "lapsrn_peer": _row("LapSRN, published weights", "peer", peer="LapSRN"),
    }
    for name, title in _SUPER_RESOLUTION.items():
        rows[name] = _network(name, title, size)
    rows["deblur_cnn"] = _network("deblur_cnn", "DeblurCNN", size)
    for name in _SUPER_RESOLUTION:
        parts = ("deblur_cnn", name)
        title = " then ".join(rows[part].title for part in parts)
        rows[f"deblur_cnn_{name}"] = _row(title, "cascade", parts=parts)
    for name, title in _JOINT.items():
        rows[name] = _network(name, title, size)
        if name.endswith("finetuned"):
            rows[name].title += ", fine-tuned"
    for name, row in rows.items():
        scores = _PAPER.get(name, ())
        # 0 stands for an SSIM that the paper does not report.
        similarities = _PAPER_SSIM.get(name, (0.0, 0.0))
        row.paper = tuple(zip(scores, similarities, strict=False))
    config = ml_collections.ConfigDict({"name": "table1", "rows": rows})
    # Order of the rows. The two rows of a cascade must come before it.
    config.order = tuple(rows)
    return config.lock()


def _row(title: str, method: str, **settings: Any) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"title": title, "method": method, **settings})


def _network(name: str, title: str, size: str) -> ml_collections.ConfigDict:
    if size == "full":
        command = f"python train.py --config=configs/{name}.py"
        return _row(title, "network", weights=f"runs/{name}", train=command)
    config = "eddsrn_lite.py" if name == "eddsrn" else f"{name}.py:lite"
    run = "runs/eddsrn_lite" if name == "eddsrn" else f"runs/{name}-lite"
    weights = str(_WEIGHTS / f"{name}.safetensors")
    command = (
        f"python train.py --config=configs/{config} {_BUDGET} &&"
        f" python -m eddsrn_jax export --workdir={run} --out={weights}"
    )
    return _row(f"{title} lite", "network", weights=weights, train=command)
