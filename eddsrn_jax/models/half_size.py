"""ED-DSRN at half size: a blind Wiener filter, then a trunk that refines its result.

Images are float RGB in [0, 1], [N, h, w, 3]; outputs are not clipped.

Differs from the paper's network (models/eddsrn.py) in five ways. A fixed bank of inverse
filters comes first, and a small network mixes them according to the photo's blur. The
trunk's largest feature maps have half the photo's size, since a blurred photo has little
detail that needs the full size. Skips are not convolved. Each head is a single sub-pixel
convolution. Layers at the photo's size can follow the trunk.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from eddsrn_jax.models.eddsrn import SCALE, STRIDE
from eddsrn_jax.models.front_end import (
    PHOTO_SCALE,
    FrontEnd,
    front_end_channels,
    front_end_radius,
)
from eddsrn_jax.models.layers import (
    LINEAR_NORMAL,
    RESIDUAL_NORMAL,
    BicubicUpscale,
    Conv,
    ResidualBlock,
    max_pool_2x2,
    pad_to_multiple,
)
from eddsrn_jax.ops.pixel_shuffle import depth_to_space, space_to_depth

# Before training the mix is nearly the photo itself: five filters share 8 % of it.
_PHOTO_LOGIT = 4.0
# Rough standard deviation of the heads' residual images.
_RESIDUAL_SCALE = 0.1


class BlurEstimator(nn.Module):
    """Network that chooses each filter's share from the blur of a photo.

    Attributes:
        features: width of the two hidden convolutions.
        dtype: computation dtype of the convolutions.
    """

    features: int = 32
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, energies: jax.Array) -> jax.Array:
        """Chooses the shares for each cell of 8 x 8 pixels.

        Args:
            energies: see `log_energies`.

        Returns:
            Logits for the unchanged photo and for each filter, float32
            [N, 8 * rows, 8 * columns, 1 + filters], constant within a cell.
        """
        x = energies.astype(self.dtype)
        for i in range(2):
            x = nn.relu(Conv(self.features, dtype=self.dtype, name=f"conv{i}")(x))
        settings = {"kernel_init": RESIDUAL_NORMAL, "dtype": self.dtype}
        filters = energies.shape[-1]
        x = Conv(filters + 1, **settings, name="logits")(x)
        first = jnp.array([_PHOTO_LOGIT] + filters * [0.0])
        logits = x.astype(jnp.float32) + first[None, None, None]
        return logits.repeat(STRIDE, axis=1).repeat(STRIDE, axis=2)


class HalfSizeEDDSRN(nn.Module):
    """A mix of inverse filters, refined by an encoder and decoder.

    Each output is the photo, plus a mix of the filters' changes, plus a residual image.
    Every pixel has its own shares in the mix. The blur estimator proposes the shares; the
    trunk corrects them and computes the residuals.

    Attributes:
        features: widths at 1/2, 1/4 and 1/8 size.
        num_pairs: number of pairs of convolutions in each residual block: encoder at 1/2
            and 1/4, middle at 1/8, decoder at 1/4 and 1/2.
        front_end: name of a filter bank, see models/front_end.py.
        detail_features: width of the layers at the photo's size that follow the trunk; 0
            for none. They add the fine detail of photos with little blur, which the trunk
            loses at half size, and need a first width that is a multiple of 4.
        num_detail_pairs: number of pairs of convolutions in their residual block.
        dtype: computation dtype of the convolutions; filtering, mixing, parameters and
            outputs are float32.
    """

    stride = STRIDE

    features: tuple[int, int, int] = (64, 128, 192)
    num_pairs: tuple[int, int, int, int, int] = (1, 2, 3, 2, 2)
    front_end: str = "gaussian-1-084c6179"
    detail_features: int = 0
    num_detail_pairs: int = 2
    dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        # Half-size features are rearranged into a quarter as many at full size.
        if self.detail_features and self.features and self.features[0] % 4:
            raise TypeError(
                f"features={self.features}: detail_features need a first width that is a"
                " multiple of 4"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, lr_blur: jax.Array) -> dict[str, jax.Array]:
        """Restores a batch of any height and width, from 1 x 1.

        Reflection extends sizes that are not multiples of 8; outputs are cut back.

        Args:
            lr_blur: float [N, h, w, 3] in [0, 1].

        Returns:
            "sr": float32 [N, 4h, 4w, 3]; "deblurred": float32 [N, h, w, 3].
        """
        _, h, w, _ = lr_blur.shape
        image = pad_to_multiple(lr_blur, STRIDE)
        changes = FrontEnd(self.front_end, name="bank")(lr_blur)
        changes = pad_to_multiple(changes, STRIDE)
        energies = log_energies(changes)
        coarse = BlurEstimator(dtype=self.dtype, name="blur_estimator")(energies)
        full_size = self._channels(image, changes, image + mix(coarse, changes))
        x = self._trunk(full_size, energies)

        def head(x: jax.Array, channels: int, scale: int, name: str) -> jax.Array:
            """Returns an image of `scale` times the features' size; 0 before training."""
            settings = {"kernel_init": nn.initializers.zeros, "dtype": self.dtype}
            y = Conv(channels * scale**2, **settings, name=name)(x)
            return depth_to_space(y, scale).astype(jnp.float32)

        def mixed(name: str) -> jax.Array:
            logits = coarse + head(x, coarse.shape[-1], 2, name)
            return (image + mix(logits, changes))[:, :h, :w]

        sr = head(x, 3, 2 * SCALE, "sr_head")
        deblurred = head(x, 3, 2, "deblur_head")
        if self.detail_features:
            y = jnp.concatenate([full_size, depth_to_space(x, 2)], axis=-1)
            y = self._conv(y, self.detail_features, "detail_stem")
            y = self._block(y, self.num_detail_pairs, "detail")
            sr += head(y, 3, SCALE, "sr_detail")
            deblurred += head(y, 3, 1, "deblur_detail")
        sr = _RESIDUAL_SCALE * sr[:, : SCALE * h, : SCALE * w]
        deblurred = _RESIDUAL_SCALE * deblurred[:, :h, :w]
        return {
            "sr": sr + BicubicUpscale(SCALE)(mixed("sr_mix")),
            "deblurred": deblurred + mixed("deblur_mix"),
        }

    def _channels(
        self, image: jax.Array, changes: jax.Array, estimate: jax.Array
    ) -> jax.Array:
        """Returns the trunk's input at full size: photo, gray changes, first mix."""
        gray = changes.mean(axis=-1, keepdims=True)
        channels = front_end_channels(image, gray, bank=self.front_end, dtype=self.dtype)
        levels = ((255.0 * estimate - 128.0) / PHOTO_SCALE).astype(self.dtype)
        return jnp.concatenate([channels, levels], axis=-1)

    def _trunk(self, full_size: jax.Array, energies: jax.Array) -> jax.Array:
        """Returns features at half size, from input at full size and blur at 1/8.

        There is no ReLU between blocks: a dead unit there would silence everything after
        it.
        """
        half, quarter, eighth = self.features
        encoder1, encoder2, middle, decoder2, decoder1 = self.num_pairs
        x = self._conv(space_to_depth(full_size, 2), half, "stem")
        x = skip1 = self._block(x, encoder1, "encoder1")
        x = self._conv(max_pool_2x2(x), quarter, "widen2")
        x = skip2 = self._block(x, encoder2, "encoder2")
        x = jnp.concatenate([max_pool_2x2(x), energies.astype(x.dtype)], axis=-1)
        x = self._block(self._conv(x, eighth, "widen3"), middle, "middle")
        x = depth_to_space(self._conv(x, 4 * quarter, "up2"), 2)
        x = self._block(x + skip2, decoder2, "decoder2")
        x = depth_to_space(self._conv(x, 4 * half, "up1"), 2)
        return self._block(x + skip1, decoder1, "decoder1")

    def _conv(self, x: jax.Array, features: int, name: str) -> jax.Array:
        settings = {"kernel_init": LINEAR_NORMAL, "dtype": self.dtype}
        return Conv(features, **settings, name=name)(x)

    def _block(self, x: jax.Array, num_pairs: int, name: str) -> jax.Array:
        return ResidualBlock(x.shape[-1], num_pairs, self.dtype, name=name)(x)

    @property
    def receptive_radius(self) -> int:
        """Receptive-field radius in pixels of the small image, from a multiple of STRIDE.

        The computation goes back from the output, as in EDDSRN.receptive_radius: bicubic
        enlargement and mix convolution, or the layers at the photo's size if they reach
        further; the last block at 1/2; up-convolution and block at 1/4 and at 1/8; then
        the encoder.
        """
        encoder1, encoder2, middle, decoder2, decoder1 = (2 * n for n in self.num_pairs)
        detail = 1 + self.num_detail_pairs if self.detail_features else 0
        pixels = max(2, detail) + decoder1
        pixels = -(-pixels // 2) + 1 + decoder2
        pixels = -(-pixels // 2) + 1 + middle + 1
        pixels = 2 * pixels + encoder2 + 1
        pixels = 2 * pixels + encoder1 + 1
        # The stem sees the first mix, for which the blur estimator convolves three times
        # at 1/8.
        pixels = STRIDE * (-(-2 * pixels // STRIDE) + 3)
        return pixels + front_end_radius(self.front_end)

    @property
    def halo(self) -> int:
        """Surroundings with which a window is restored as in the whole photo.

        It is three fifths of the radius. Trained weights see next to nothing beyond, as
        Luo et al. ("Understanding the Effective Receptive Field in Deep Convolutional
        Neural Networks", NeurIPS 2016) explain. With the weights `photo` and `gaussian`,
        on sharp, blurred and compressed photos, two in 100,000 values of 8 bits differed
        from those of the whole photo, by one. Rounding alone changes as many.
        """
        return math.ceil(0.6 * self.receptive_radius)


def mix(logits: jax.Array, changes: jax.Array) -> jax.Array:
    """Returns the weighted mean of no change and of each filter's change.

    Args:
        logits: float32 [N, h, w, 1 + filters]; their softmax gives the weights.
        changes: float32 [N, h, w, filters, C], see FrontEnd.

    Returns:
        float32 [N, h, w, C].
    """
    shares = nn.softmax(logits)[..., 1:]
    return jnp.sum(shares[..., None] * changes, axis=3)


def log_energies(changes: jax.Array) -> jax.Array:
    """Returns each filter's log energy of change in each cell of 8 x 8 pixels.

    The differences between filters indicate a photo's blur, whatever its contrast.

    Args:
        changes: float32 [N, h, w, filters, C], see FrontEnd; h and w multiples of 8.

    Returns:
        float32 [N, h / 8, w / 8, filters], of about unit variance.
    """
    n, h, w, *channels = changes.shape
    cells = changes.reshape(n, h // STRIDE, STRIDE, w // STRIDE, STRIDE, *channels)
    # Energies are in squared grey levels; rounding to 8 bits alone contributes a few.
    energies = jnp.mean(jnp.square(255.0 * cells), axis=(2, 4, 6))
    return (jnp.log(energies + 1.0) - 4.0) / 2.0
