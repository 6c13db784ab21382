"""ED-DSRN as in the paper, trained on DIV2K.

Reproduces: ICASSP 2018, section 3 and Table 1. The paper's numbers: 25.0131 dB / 0.6503,
luminance on Set14, after 30 hours on one GTX 1080 Ti. Not measured here.

    python train.py --config=configs/eddsrn.py --workdir=runs/eddsrn

All other training recipes start from this one. "Photo" means a sharp photo, "small image"
that photo shrunk by 4. The network's input is the blurred small image.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the paper's recipe."""
    config = ml_collections.ConfigDict()
    # Name of the method in tables.
    config.name = "ED-DSRN"
    # Seed of the initial weights, the crops and their degradations.
    config.seed = 0
    # Crops in one training step, over all devices together.
    config.batch_size = 32
    # Length of the run in epochs.
    config.num_epochs = 120
    # Length of the run in steps. 0: num_epochs sets the length.
    config.total_steps = 0
    # Weights to start from: a .safetensors file, a folder of weights, the workdir of a
    # run, or the name of included weights, such as "photo". Empty: random weights.
    config.init_from = ""
    # Whether init_from takes only those weights whose name and shape fit the network. The
    # others stay random, and the log names them.
    config.init_from_partial = False
    # Decay of the exponential moving average of the weights, which is then validated and
    # kept for use. 0, as in the paper: no average, the weights themselves are used.
    config.ema_decay = 0.0
    # Reaction to a loss, gradient or parameter that is not finite. "stop" ends the run.
    # "skip" drops the step; more than ten such steps in a row end the run.
    config.on_bad_step = "stop"
    # Steps between rows of the training log.
    config.log_every_steps = 100

    # Name of a network in eddsrn_jax.models, or the import path of one of your own, such
    # as mypackage.networks:Shallow. The values of config.model are its fields.
    config.network = "EDDSRN"
    config.model = ml_collections.ConfigDict()
    # Channels of the trunk at 1, 1/2, 1/4 and 1/8 of the small image's size.
    config.model.features = (64, 128, 256, 512)
    # Pairs of convolutions in each residual block.
    config.model.num_pairs = 2
    # Channels of the super-resolution head at x1, x2 and x4 of the small image's size.
    config.model.sr_features = (64, 64, 64)
    # Channels of the deblurring head. 0: no such head.
    config.model.deblur_features = 64
    # Bank of inverse filters before the first layer, by its name in
    # eddsrn_jax/models/front_end.py. Empty, as in the paper: none.
    config.model.front_end = ""
    # Type of the network's computation. Parameters and outputs are float32.
    config.model.dtype = "float32"
    # Whether the backward pass computes residual blocks and heads a second time, which
    # takes less memory and more time.
    config.model.rematerialize = False

    config.data = ml_collections.ConfigDict()
    # Photos to train and validate on: "tfds:div2k", "folder:DIR", "bundled" for those
    # inside scikit-image, or "pairs:LR_DIR,HR_DIR" for pairs of your own, each a small
    # photo and a sharp one.
    config.data.source = "tfds:div2k"
    # Photos to validate on, in the same form. Empty: those that data.source itself sets
    # apart for validation.
    config.data.validation_source = ""
    # Folder of tensorflow-datasets' data. Empty: the library's default.
    config.data.tfds_data_dir = ""
    # Whether tensorflow-datasets may download missing data (DIV2K: 4.3 GB).
    config.data.tfds_download = False
    # Reaction to a file that cannot be decoded. "skip" names it and leaves it out.
    # "raise" stops at the first one.
    config.data.on_error = "skip"
    # Folder for decoded photos (DIV2K: 6.6 GB). Empty: ~/.cache/eddsrn_jax/packs.
    config.data.cache_dir = ""
    # "stream": the host cuts the crops, with tf.data, or with grain where TensorFlow
    # is not installed.
    # "resident": the devices cut them, from all photos in device memory.
    config.data.pipeline = "stream"
    # Side of a crop in pixels of the photo, a multiple of 4.
    config.data.hr_patch_size = 256
    # Crops from each photo in one epoch. With DIV2K's 800 photos and batches of 32 an
    # epoch has 1,000 steps.
    config.data.crops_per_image = 40

    # Only for data.pipeline "stream".
    config.pipeline = ml_collections.ConfigDict()
    # Host threads that cut crops.
    config.pipeline.num_threads = 2
    # Batches kept ready in host memory.
    config.pipeline.prefetch = 4

    config.degradation = ml_collections.ConfigDict()
    # Lowest and highest standard deviation of the Gaussian blur, in pixels of the small
    # image.
    config.degradation.sigma_range = (1.0, 2.0)
    # Share of crops, 0 to 1, without blur. The paper has none, and none of the following
    # degradations.
    config.degradation.sharp_share = 0.0
    # Share of crops, 0 to 1, whose blur is weaker across its direction than along it.
    config.degradation.anisotropic_share = 0.0
    # Share of crops, 0 to 1, with sensor noise.
    config.degradation.noise_share = 0.0
    # Highest standard deviation of the noise where the image is white, in grey levels.
    config.degradation.max_noise = 0.0
    # Share of crops, 0 to 1, with JPEG compression.
    config.degradation.jpeg_share = 0.0
    # Lowest and highest JPEG quality, 1 to 100.
    config.degradation.jpeg_quality = (100, 100)
    # Import path of a function of (key, image), such as mypackage.degradations:defocus,
    # that takes the place of the blur in training and validation. Empty: none.
    config.degradation.own = ""

    # The total is loss.sr + loss.alpha * loss.deblurred. A network with one output has
    # the loss of that output alone.
    config.loss = ml_collections.ConfigDict()
    # Losses of the x4 and the deblurred image: "mse", "log_mse", "l1", "charbonnier", or
    # the import path of a function of (pred, target), such as mypackage.losses:edges.
    config.loss.sr = "mse"
    config.loss.deblurred = "charbonnier"
    # Weight of the deblurring loss.
    config.loss.alpha = 0.2
    # Constant of the Charbonnier loss, sqrt(difference^2 + eps^2), for images in [0, 1].
    config.loss.eps = 1e-3

    # Training against a discriminator, see eddsrn_jax.training.adversarial.
    config.adversarial = ml_collections.ConfigDict()
    # Weight of the adversarial loss, which is added to the total. 0: no discriminator.
    config.adversarial.weight = 0.0
    # Weight of the mean squared error between the discriminator's features of the x4
    # image and of the photo.
    config.adversarial.feature_weight = 0.0
    # Channels of the discriminator's first convolution. Each further one doubles them.
    config.adversarial.features = 64
    # Convolutions of the discriminator, each of which halves the image.
    config.adversarial.num_layers = 4

    # The optimizer and its learning rate.
    config.optimizer = ml_collections.ConfigDict()
    # "adam", "muon", or the import path of a function of the learning rate alone, such as
    # optax:lion, on which b2 has no effect.
    config.optimizer.name = "adam"
    # "step_decay", "warmup_cosine" or "warmup_constant_decay".
    config.optimizer.schedule = "step_decay"
    # Learning rate at the start, or after the warm-up.
    config.optimizer.learning_rate = 5e-4
    # Epochs until the learning rate is halved, for "step_decay".
    config.optimizer.halve_every_epochs = 30
    # Steps of linear warm-up from 0, for the two schedules that have one.
    config.optimizer.warmup_steps = 0
    # Steps of the final linear decay to 0, for "warmup_constant_decay".
    config.optimizer.decay_steps = 0
    # Decay of Adam's second moment.
    config.optimizer.b2 = 0.999
    # Highest global norm of the gradient. Larger gradients are scaled down to it. 0: no
    # clipping.
    config.optimizer.clip_norm = 0.0

    config.validation = ml_collections.ConfigDict()
    # Steps between validations.
    config.validation.every_steps = 5000
    # Standard deviations of the validation blurs, in pixels of the small image. The
    # photos get them in turn.
    config.validation.sigmas = (1.0, 1.25, 1.5, 1.75, 2.0)
    # "paper": blur alone. "photo": blur alone, with noise, with JPEG compression and with
    # both, in turn.
    config.validation.degradation = "paper"
    # Highest number of photos to validate on.
    config.validation.max_photos = 100

    config.checkpoint = ml_collections.ConfigDict()
    # Steps between checkpoints. Each validation saves one too.
    config.checkpoint.every_steps = 1000
    # Checkpoints at multiples of this number of steps are kept for ever. 0: only the two
    # latest and the best one are kept.
    config.checkpoint.keep_every_steps = 0
    return config.lock()
