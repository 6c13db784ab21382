"""Makes the parts of a run from its config: data, training step, state."""

import functools
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from eddsrn_jax.checkpoints.found_weights import SHIPPED, WEIGHTS_FILE
from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.checkpoints.parameters import merge
from eddsrn_jax.checkpoints.weights import load_weights
from eddsrn_jax.config_values import Config
from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.data.pack import Pack
from eddsrn_jax.data.photo_record import open_packs, photo_places
from eddsrn_jax.data.resident import resident_batches
from eddsrn_jax.data.streaming import prefetch_to_device, stream_batches
from eddsrn_jax.distributed import gather, require_equal, wait_for_others
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.metrics import MIN_SIDE
from eddsrn_jax.files import make_folder
from eddsrn_jax.mesh import map_step, process_rows, replicate, shard_batch
from eddsrn_jax.models import SCALE, abstract_params, init_params
from eddsrn_jax.models.scgan import Discriminator
from eddsrn_jax.paths import local_path
from eddsrn_jax.training.adversarial import adversarial_step, with_discriminator
from eddsrn_jax.training.resuming import check_resumption
from eddsrn_jax.training.state import TrainState, create_train_state
from eddsrn_jax.training.step import Metrics, train_step

_log = logging.getLogger(__name__)

# The final evaluation leaves out smaller photos.
_MIN_VALIDATION_SIDE = SCALE * MIN_SIDE


def open_data(config: Config, workdir: Path | None = None) -> tuple[CropSampler, Pack]:
    """Opens the crops to train on and the photos to validate on.

    Args:
        config: values of the run, see `train_and_evaluate`.
        workdir: folder of the run, see `open_packs`.

    Raises:
        InputError: the config's data cannot be used, or the processes of the run have
            different photos.
        OSError: the disk has no room for the pack.
    """
    data, places = config.data, photo_places(config)
    make_folder(places["cache_dir"], "config.data.cache_dir")
    open_both = functools.partial(
        open_packs,
        **places,
        workdir=workdir,
        download=data.tfds_download,
        on_error=data.on_error,
    )
    # The processes may differ in this value.
    if any(gather(data.tfds_download)) and jax.process_count() > 1:
        # Processes that download to one folder at a time would disturb each other.
        packs = open_both() if jax.process_index() == 0 else None
        wait_for_others()
        train, held_out = packs or open_both()
    else:
        train, held_out = open_both()
    if jax.process_count() > 1:
        for pack in (train, held_out):
            require_equal(photo_sums(pack), f"their photos of {pack.name} differ")
    sampler = CropSampler(
        train,
        seed=config.seed,
        batch_size=config.batch_size,
        crops_per_image=data.crops_per_image,
        patch_size=data.hr_patch_size,
    )
    if sampler.small:
        _log.info(
            "training on pairs: the inputs are the small photos, so config.degradation"
            " has no effect on the training. Its sigma_range is saved with the weights,"
            " and restore warns of blurs outside it"
        )
    held_out = held_out.at_least(_MIN_VALIDATION_SIDE, "the minimum for validation")
    most = range(min(len(held_out.images), config.validation.max_photos))
    return sampler, held_out.take(most)


def photo_sums(pack: Pack) -> list[str]:
    """Returns the name, size and checksum of each photo, to compare processes.

    The checksum is that of every 16th row, as reading all of DIV2K would take a while.
    """
    return [
        f"{name}, {image.shape[1]} x {image.shape[0]},"
        f" {zlib.crc32(np.ascontiguousarray(image[::16])):08x}"
        for name, *images in pack.photos
        for image in images
    ]


def open_batches(
    config: Config,
    sampler: CropSampler,
    steps: range,
    mesh: jax.sharding.Mesh,
) -> Iterator[dict[str, jax.Array]]:
    """Returns an iterator that places the batches of `steps` on the devices ahead.

    Raises:
        InputError: the batch cannot be split evenly over the devices.
    """
    rows = process_rows(config.batch_size, mesh)
    if config.data.pipeline == "resident":
        batches = resident_batches(sampler, steps, mesh, rows=rows)
        return prefetch_to_device(batches, lambda batch: batch)
    batches = stream_batches(sampler, steps, rows=rows, **config.pipeline)
    return prefetch_to_device(batches, lambda b: shard_batch(b, mesh))


def compile_step(
    config: Config,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Returns the config's training step, compiled for a mesh."""
    step = functools.partial(
        train_step,
        model=model,
        optimizer=optimizer,
        scale=SCALE,
        degradation=dict(config.degradation),
        loss=dict(config.loss),
        ema_decay=config.ema_decay,
    )
    if discriminator := _discriminator(config, model):
        step = functools.partial(
            adversarial_step,
            **step.keywords,
            discriminator=discriminator,
            weight=config.adversarial.weight,
            feature_weight=config.adversarial.feature_weight,
        )
    return map_step(step, mesh)


def _discriminator(config: Config, model: nn.Module) -> Discriminator | None:
    """Makes the discriminator that a network trains against; None without one."""
    if not config.adversarial.weight:
        return None
    return Discriminator(
        config.adversarial.features,
        config.adversarial.num_layers,
        model.dtype,  # pyright: ignore[reportAttributeAccessIssue]
    )


def restore_or_create(
    checkpoints: Checkpoints,
    config: Config,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    num_photos: int,
) -> tuple[TrainState, dict[str, Any]]:
    """Restores the newest checkpoint's state, or creates a new state.

    A new state starts from the weights of `config.init_from`, if that is set.

    Args:
        checkpoints: checkpoints of the run's workdir.
        config: values of the run.
        model, optimizer: network of the run and its optimizer.
        mesh: devices for the state.
        num_photos: number of photos that the run trains on.

    Returns:
        The state on the devices, and the result of `StepMetrics.to_json` for it.

    Raises:
        InputError: the checkpoint cannot be resumed with this config, see
            `check_resumption`.
    """
    state = new_state(config, model, optimizer)
    restored = checkpoints.restore_latest(replicate(state, mesh))
    if restored is not None:
        check_resumption(
            restored.config,
            config,
            checkpoints.workdir,
            step=int(restored.state.step),
            num_photos=num_photos,
        )
        return restored.state, restored.progress
    if config.init_from:
        start = state.used_params if config.init_from_partial else None
        params = load_params(config.init_from, model, start=start)
        state = new_state(config, model, optimizer, params)
    return replicate(state, mesh), {}


def new_state(
    config: Config,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    params: Any = None,
) -> TrainState:
    """Creates the state before the first step; initialises `params` if they are None."""
    key = jax.random.key(config.seed)
    discriminator = _discriminator(config, model)
    state = create_train_state(
        init_params(model, key) if params is None else params,
        optimizer,
        ema=config.ema_decay > 0,
    )
    if discriminator:
        state = with_discriminator(state, discriminator, optimizer, key=key)
    return state


def initial_weights(name: Path | str) -> Path:
    """Returns the file of weights, or the workdir, that `config.init_from` names.

    Raises:
        InputError: it does not exist, or has a format that cannot be read.
    """
    path = SHIPPED.get(str(name)) or local_path(name, "config.init_from")
    if not path.exists():
        raise InputError(
            f"config.init_from={path}: no such file or folder; the included weights are"
            f" {', '.join(SHIPPED)}"
        )
    if path.suffix != ".safetensors" and path.is_file():
        kind = f"files of the format {path.suffix}" if path.suffix else "this file"
        raise InputError(
            f"config.init_from={path}: {kind} cannot be read; expected a .safetensors"
            " file, as python -m eddsrn_jax export writes it, a folder of weights, or the"
            " workdir of a run"
        )
    return path / WEIGHTS_FILE if (path / WEIGHTS_FILE).is_file() else path


def load_params(path: Path | str, model: nn.Module, *, start: Any = None) -> Any:
    """Loads included weights, a .safetensors file, a folder of weights, or a workdir.

    Of a run's workdir it loads the best checkpoint.

    Args:
        path: name in SHIPPED, or path of a file or folder.
        model: network that the weights are for.
        start: parameters that the network keeps where no weights have their name and
            shape; None if all weights must fit.

    Raises:
        InputError: the weights are missing, damaged, of another architecture, or in a
            format that cannot be read; or none fits.
    """
    like = abstract_params(model)
    path = initial_weights(path)
    if path.suffix == ".safetensors":
        return load_weights(path, like, start=start)
    with Checkpoints(path, read_only=True) as checkpoints:
        if start is None:
            return checkpoints.restore_params(like=like)[2]
        return merge(checkpoints.restore_params()[2], start, str(path))
