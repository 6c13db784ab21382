"""ED-DSRN at half size, for Gaussian blurs of sigma 1 to 2 pixels of the small image.

It scores higher than ED-DSRN lite for the same training time. It departs from the paper,
see eddsrn_jax/models/half_size.py. A fixed bank of inverse filters comes first, and a
small network mixes them without knowing sigma. The trunk works at half the size of the
network's input. MODEL_CARD.md, beside the weights, has the scores and the gain from each
change.

    python train.py --config=configs/eddsrn_half.py --config.data.source=folder:DIR

`configs/eddsrn_half.py:large` is a recipe for a GPU; its network has 24.9 M parameters.
Nobody has run it to its end yet.
"""

import ml_collections

from configs import eddsrn_lite


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns the lite recipe with another network and a schedule that can be extended.

    Args:
        size: "small", for CPUs, or "large", for GPUs.

    Raises:
        ValueError: unknown size.
    """
    if size not in ("small", "large"):
        raise ValueError(f"size {size!r}: expected small or large")
    config = eddsrn_lite.get_config()
    config.unlock()
    config.name = "ED-DSRN half-size"
    # 10,000 steps take two to three hours on two cores. A run can be extended until its
    # decay begins.
    config.total_steps = 10_000
    config.ema_decay = 0.999

    config.network = "HalfSizeEDDSRN"
    config.model = ml_collections.ConfigDict()
    config.model.features = (64, 128, 192)
    config.model.num_pairs = (1, 2, 3, 2, 2)
    config.model.front_end = "gaussian-1-084c6179"
    # Width of the layers at the photo's size that follow the trunk. 0: none.
    config.model.detail_features = 64
    # Number of pairs of convolutions in those layers.
    config.model.num_detail_pairs = 2
    config.model.dtype = "float32"

    # Smaller crops are narrower than the receptive field. Five of these have about as
    # many pixels as eight of 192 x 192.
    config.batch_size = 5
    config.data.hr_patch_size = 256

    # The score is a mean of PSNRs, which are logarithms of the squared error.
    config.loss.sr = "log_mse"
    config.loss.deblurred = "log_mse"

    # After the same number of steps it is 0.2 dB better than Adam.
    config.optimizer.name = "muon"
    config.optimizer.schedule = "warmup_constant_decay"
    # At 1e-3 training diverged for some steps.
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.decay_steps = 5000
    # Higher than in lite, because the gradients of a logarithm are larger.
    config.optimizer.clip_norm = 3.0

    if size == "large":
        config.name = "ED-DSRN half-size, large"
        config.batch_size = 64
        config.data.hr_patch_size = 192
        config.total_steps = 100_000
        config.model.features = (128, 256, 320)
        config.model.num_pairs = (4, 4, 4, 4, 4)
        config.model.dtype = "bfloat16"
        config.data.pipeline = "resident"
        config.optimizer.b2 = 0.99
        config.optimizer.decay_steps = 20_000
        # A GPU should train a thousand steps in about the time of one validation.
        config.validation.every_steps = 10_000
        config.checkpoint.every_steps = 10_000
    return config.lock()
