"""The systems of the paper's Table 1, to be scored side by side.

    python evaluate.py --config=configs/table1.py --dataset=Set14=DIR       # or :full

At "lite" size, the default, each system was trained on as many crops by the same recipe
(see configs/sizes.py), and the weights come along. At "full" size none has been trained
here; the table says how to.
"""

from typing import Any

import ml_collections

from configs.sizes import of_size

# What the paper has, PSNR in dB and, of two systems, SSIM.
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
# Crops of 192 pixels, eight a step: 20,000.
_BUDGET = "--config.total_steps=2500 --config.model.dtype=bfloat16"


def get_config(size: str = "lite") -> ml_collections.ConfigDict:
    """The rows of the table with the networks of a size, "lite" or "full".

    A row has a title and a method: "bicubic", "wiener", "dark_channel", a "network" (with
    its weights, a file or a run's workdir, and the command that makes them), "peer" (a
    network with others' weights, see --peers), or a "cascade" of two rows.
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
        # Zero for what it does not have.
        similarities = _PAPER_SSIM.get(name, (0.0, 0.0))
        row.paper = tuple(zip(scores, similarities, strict=False))
    config = ml_collections.ConfigDict({"name": "table1", "rows": rows})
    # Of the rows in the table; those of a cascade come before it.
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
    weights = f"eddsrn_jax/weights/table1/{name}.safetensors"
    command = (
        f"python train.py --config=configs/{config} {_BUDGET} &&"
        f" python -m eddsrn_jax.export_weights --workdir={run} --out={weights}"
    )
    return _row(f"{title} lite", "network", weights=weights, train=command)
