"""ED-DSRN at half size: Gaussian blurs of sigma 1 to 2, better for the time than lite.

Departs from the paper, see eddsrn_jax/models/half_size.py: a fixed bank of inverse
filters and a blind mix of them come first, and the trunk works at half the photo's size.
MODEL_CARD.md, beside the weights, has the scores and what each change was worth.

    python train.py --config=configs/eddsrn_half.py --config.data.source=folder:DIR

With `:large` after its name it is a recipe for a GPU, 24 M parameters; nobody has run it
to its end yet.
"""

import ml_collections

from configs import eddsrn_lite


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """The lite recipe for another network, with a schedule that can be made longer.

    Args:
        size: "small", for CPUs, or "large".

    Raises:
        ValueError: another size.
    """
    if size not in ("small", "large"):
        raise ValueError(f"size {size!r}: expected small or large")
    config = eddsrn_lite.get_config()
    config.unlock()
    config.name = "ED-DSRN half-size"
    # An hour on two cores. Until the decay begins, a run can be given more.
    config.total_steps = 10_000
    config.ema_decay = 0.999

    config.network = "HalfSizeEDDSRN"
    config.model = ml_collections.ConfigDict()
    config.model.features = (64, 128, 192)
    config.model.num_pairs = (1, 2, 3, 2, 2)
    config.model.front_end = "gaussian-1-084c6179"
    config.model.dtype = "float32"

    # The score is a mean of PSNR, a logarithm.
    config.loss.sr = "log_mse"
    config.loss.deblurred = "log_mse"

    config.optimizer.schedule = "warmup_constant_decay"
    # At 1e-3 training diverges for some steps.
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.decay_steps = 2000
    # Gradients of a logarithm are larger.
    config.optimizer.clip_norm = 3.0

    if size == "large":
        config.name = "ED-DSRN half-size, large"
        config.batch_size = 64
        config.total_steps = 100_000
        config.model.features = (128, 256, 320)
        config.model.num_pairs = (4, 4, 4, 4, 4)
        config.model.dtype = "bfloat16"
        config.data.pipeline = "resident"
        config.optimizer.b2 = 0.99
        config.optimizer.decay_steps = 20_000
    return config.lock()
