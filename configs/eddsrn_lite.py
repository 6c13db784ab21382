"""A small ED-DSRN for CPUs and small GPUs."""

from configs import eddsrn


def get_config():
    config = eddsrn.get_config()
    with config.unlocked():
        config.name = "ED-DSRN lite"
    config.batch_size = 16
    config.model.features = (32, 64, 96, 128)
    config.model.num_pairs = 1
    config.model.sr_features = (32, 16, 8)
    config.model.deblur_features = 32
    config.data.hr_patch_size = 192
    config.optimizer.schedule = "warmup_cosine"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_norm = 1.0
    return config
