"""ED-DSRN as in the paper, on DIV2K.

Reproduces: ICASSP 2018, section 3 and Table 1. The paper's numbers, luminance on Set14:
25.0131 dB / 0.6503, after 30 hours on one GTX 1080 Ti. Not measured here.

    python train.py --config=configs/eddsrn.py --workdir=runs/eddsrn
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The paper's recipe."""
    config = ml_collections.ConfigDict()
    # What tables call the method.
    config.name = "ED-DSRN"
    config.seed = 0
    config.batch_size = 32
    config.num_epochs = 120
    # Takes the place of num_epochs where it is not 0.
    config.total_steps = 0
    # Weights to start from: a .safetensors file or a workdir.
    config.init_from = ""
    # Of the moving average of the weights that is validated and kept for use; 0 uses the
    # weights themselves, as the paper does.
    config.ema_decay = 0.0
    # Where a loss, gradient or parameter is not finite: "stop", or "skip" the step, up to
    # ten in a row.
    config.on_bad_step = "stop"
    config.log_every_steps = 100
    # Steps that a device is given at once: for accelerators that are done with a step
    # sooner than the host has sent it.
    config.steps_per_dispatch = 1

    # Of eddsrn_jax.models; the model's values are its fields.
    config.network = "EDDSRN"
    config.model = ml_collections.ConfigDict()
    config.model.features = (64, 128, 256, 512)
    config.model.num_pairs = 2
    config.model.sr_features = (64, 64, 64)
    config.model.deblur_features = 64
    # A bank of eddsrn_jax/models/front_end.py before the first layer; the paper has none.
    config.model.front_end = ""
    config.model.dtype = "float32"
    # Less memory for more time: parts of the network are computed again backwards.
    config.model.rematerialize = False

    config.data = ml_collections.ConfigDict()
    # "tfds:div2k", "folder:DIR" or "bundled".
    config.data.source = "tfds:div2k"
    # Another source to validate on, where the source's own split is not wanted.
    config.data.validation_source = ""
    config.data.tfds_data_dir = ""
    # Whether tensorflow-datasets may download what it lacks (DIV2K: 4.3 GB).
    config.data.tfds_download = False
    # Files that cannot be decoded: "skip" names and leaves them out, "raise" stops at the
    # first.
    config.data.on_error = "skip"
    # For decoded photographs (DIV2K: 6.6 GB); ~/.cache/eddsrn_jax/packs where empty.
    config.data.cache_dir = ""
    # "stream": tf.data cuts crops on the host. "resident": the devices do, from all
    # photographs in their memory; needs no TensorFlow.
    config.data.pipeline = "stream"
    config.data.hr_patch_size = 256
    # An epoch; with the 800 photographs of DIV2K it has 1,000 steps.
    config.data.crops_per_image = 40

    config.pipeline = ml_collections.ConfigDict()
    config.pipeline.num_threads = 2
    config.pipeline.prefetch = 4

    config.degradation = ml_collections.ConfigDict()
    config.degradation.sigma_range = (1.0, 2.0)
    # Shares of the crops with a blur that differs by direction, with noise, and with JPEG
    # compression; the paper has none of these.
    config.degradation.anisotropic_share = 0.0
    config.degradation.noise_share = 0.0
    # Standard deviation in grey levels.
    config.degradation.max_noise = 0.0
    config.degradation.jpeg_share = 0.0
    # Lowest and highest.
    config.degradation.jpeg_quality = (100, 100)

    config.loss = ml_collections.ConfigDict()
    # Losses of the x4 and the deblurred image: "mse", "log_mse", "l1" or "charbonnier".
    config.loss.sr = "mse"
    config.loss.deblurred = "charbonnier"
    config.loss.alpha = 0.2
    config.loss.eps = 1e-3

    # Against a discriminator; none where the weight is 0. See eddsrn_jax.adversarial.
    config.adversarial = ml_collections.ConfigDict()
    config.adversarial.weight = 0.0
    config.adversarial.feature_weight = 0.0
    config.adversarial.features = 64
    config.adversarial.num_layers = 4

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.schedule = "step_decay"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.halve_every_epochs = 30
    config.optimizer.warmup_steps = 0
    config.optimizer.decay_steps = 0
    config.optimizer.b2 = 0.999
    config.optimizer.clip_norm = 0.0

    config.validation = ml_collections.ConfigDict()
    config.validation.every_steps = 5000
    # Blurs that the photographs have in turn.
    config.validation.sigmas = (1.0, 1.25, 1.5, 1.75, 2.0)
    # "paper": blur alone. "photo": also noise and JPEG compression in turn.
    config.validation.degradation = "paper"
    config.validation.max_photos = 100

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 1000
    return config.lock()
