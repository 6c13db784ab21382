"""PyTorch twins of the networks, with the same weights, to compare timings with.

Images are float [N, 3, h, w] in [0, 1] in channels-last memory, h and w multiples of 8.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import flax.traverse_util
import ml_collections
import numpy as np
import torch
import torch.nn.functional as F

from eddsrn_jax.models import EDDSRN, SCALE, STRIDE, HalfSizeEDDSRN, SRResNet
from eddsrn_jax.models.front_end import find_bank
from eddsrn_jax.ops.resize import downscale_matrix

Tensors = dict[str, torch.Tensor]


def torch_device() -> str:
    """Returns the device that PyTorch computes on: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_twin(model: nn.Module, variables: Mapping[str, Any]) -> "Twin":
    """Returns a PyTorch module that computes the same as a model with these variables."""
    twins = {
        EDDSRN: EDDSRNTwin,
        HalfSizeEDDSRN: HalfSizeEDDSRNTwin,
        SRResNet: SRResNetTwin,
    }
    return twins[type(model)](model, variables)


class Twin(torch.nn.Module):
    """Base of the twins; holds weights by Flax's names, such as "trunk/stem/kernel"."""

    def __init__(self, model: nn.Module, variables: Mapping[str, Any]):
        super().__init__()
        self.model = model
        self.weights = torch.nn.ParameterDict()
        for collection, tree in variables.items():
            for name, value in flax.traverse_util.flatten_dict(tree, sep="/").items():
                array = _shuffled(np.array(value), self.shuffle_scale(name))
                tensor = torch.from_numpy(_torch_layout(name, array))
                if tensor.ndim == 4:
                    tensor = tensor.to(memory_format=torch.channels_last)
                trained = collection == "params"
                self.weights[name] = torch.nn.Parameter(tensor, requires_grad=trained)

    def shuffle_scale(self, name: str) -> int:
        """Returns the scale of the pixel shuffle after a layer; 1 if there is none."""
        *_, layer, module, _ = ("", "", *name.split("/"))
        return 2 if layer.startswith("up") and module == "conv" else 1

    def conv(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Applies a convolution that keeps the size of its input."""
        kernel, bias = self.weights[f"{name}/kernel"], self.weights[f"{name}/bias"]
        return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)

    def up(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Applies a convolution and a pixel shuffle by 2."""
        return F.pixel_shuffle(self.conv(f"{name}/conv", x), 2)


class EDDSRNTwin(Twin):
    """Twin of eddsrn_jax.models.EDDSRN."""

    def forward(self, image: torch.Tensor) -> Tensors:
        x = self._trunk(image)
        sr = x
        for i in range(3):
            sr = F.relu(self.conv(f"sr_head/flat{i}", sr))
        for i in range(2):
            sr = F.relu(self.up(f"sr_head/up{i}", sr))
        sr = self.conv("sr_head/rgb", F.relu(self.conv("sr_head/flat3", sr)))
        for i in range(2):
            x = F.relu(self.conv(f"deblur_head/flat{i}", x))
        deblurred = self.conv("deblur_head/rgb", x)
        return {
            "sr": sr.float() + bicubic_upscale(image),
            "deblurred": deblurred.float() + image,
        }

    def _trunk(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv("trunk/stem", image))
        skips = []
        for i in (1, 2, 3):
            skips.append(self.conv(f"trunk/skip{i}", x))
            x = F.relu(self.conv(f"trunk/widen{i}", F.max_pool2d(x, 2)))
            x = self._block(f"trunk/encoder_block{i}", x)
        for i in (3, 2, 1):
            x = F.relu(self.up(f"trunk/up{i}", x) + skips[i - 1])
            if i > 1:
                x = self._block(f"trunk/decoder_block{i}", x)
        return x

    def _block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        for i in range(self.model.num_pairs):
            y = F.relu(self.conv(f"{name}/conv{i}a", x))
            x = x + self.conv(f"{name}/conv{i}b", y)
        return x


class SRResNetTwin(Twin):
    """Twin of eddsrn_jax.models.SRResNet."""

    def forward(self, image: torch.Tensor) -> Tensors:
        x = shortcut = self._prelu("stem_prelu", self.conv("stem", image))
        for i in range(self.model.num_blocks):
            y = self._norm(f"block{i}_norm0", self.conv(f"block{i}_conv0", x))
            y = self.conv(f"block{i}_conv1", self._prelu(f"block{i}_prelu", y))
            x = x + self._norm(f"block{i}_norm1", y)
        x = shortcut + self._norm("body_norm", self.conv("body", x))
        for i in range(2):
            x = self._prelu(f"up{i}_prelu", self.up(f"up{i}", x))
        return {"sr": self.conv("rgb", x)}

    def _prelu(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.prelu(x, self.weights[f"{name}/negative_slope"].reshape(1))

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        names = ("mean", "var", "scale", "bias")
        return F.batch_norm(x, *(self.weights[f"{name}/{n}"] for n in names))


class HalfSizeEDDSRNTwin(Twin):
    """Twin of eddsrn_jax.models.HalfSizeEDDSRN."""

    _SCALES: ClassVar = {"sr_head": 2 * SCALE, "sr_detail": SCALE}
    _TWICE = ("up1", "up2", "deblur_head", "sr_mix", "deblur_mix")

    def __init__(self, model: nn.Module, variables: Mapping[str, Any]):
        super().__init__(model, variables)
        bank = find_bank(model.front_end)
        kernels = torch.from_numpy(bank.kernels).permute(2, 0, 1)[:, None].contiguous()
        self.register_buffer("bank", kernels)
        scales = torch.tensor(bank.scales)
        self.register_buffer("scales", scales[None, :, None, None])
        # The stem's weights expect channels in the order (row, column, C) of
        # space_to_depth. PyTorch's pixel_unshuffle returns them as (C, row, column).
        stem = self.weights["stem/kernel"]
        channels = stem.shape[1] // 4
        order = torch.arange(4 * channels).reshape(4, channels).T.flatten()
        stem.data = stem.data[:, order].contiguous(memory_format=torch.channels_last)

    def shuffle_scale(self, name: str) -> int:
        layer = name.split("/")[0]
        return self._SCALES.get(layer, 2 if layer in self._TWICE else 1)

    def forward(self, image: torch.Tensor) -> Tensors:
        changes = self._changes(image)
        squares = (255 * changes).square().mean(2)
        energies = (torch.log(F.avg_pool2d(squares, STRIDE) + 1) - 4) / 2
        coarse = self._coarse(energies)
        estimate = image + _mix(coarse, changes)
        gray = 255 / self.scales * changes.mean(2)
        gray = gray / (1 + gray.abs() / 4)
        levels, estimate = ((255 * x - 128) / 64 for x in (image, estimate))
        full_size = torch.cat([levels, gray, estimate], 1)
        x = F.pixel_unshuffle(full_size, 2)

        encoder1, encoder2, middle, decoder2, decoder1 = self.model.num_pairs
        x = skip1 = self._block("encoder1", encoder1, self.conv("stem", x))
        x = self.conv("widen2", F.max_pool2d(x, 2))
        x = skip2 = self._block("encoder2", encoder2, x)
        x = torch.cat([F.max_pool2d(x, 2), energies], 1)
        x = self._block("middle", middle, self.conv("widen3", x))
        x = skip2 + F.pixel_shuffle(self.conv("up2", x), 2)
        x = self._block("decoder2", decoder2, x)
        x = skip1 + F.pixel_shuffle(self.conv("up1", x), 2)
        x = self._block("decoder1", decoder1, x)

        def head(x: torch.Tensor, name: str) -> torch.Tensor:
            y = self.conv(name, x)
            return F.pixel_shuffle(y, self.shuffle_scale(name)).float()

        def mixed(name: str) -> torch.Tensor:
            return image + _mix(coarse + head(x, name), changes)

        sr, deblurred = head(x, "sr_head"), head(x, "deblur_head")
        if self.model.detail_features:
            # The weights of detail_stem expect channels in the order (row, column, C) of
            # depth_to_space. PyTorch's pixel_shuffle orders them (C, row, column).
            n, c, h, w = x.shape
            y = x.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 1, 2, 4, 5)
            y = F.pixel_shuffle(y.reshape(n, c, h, w), 2)
            y = self.conv("detail_stem", torch.cat([full_size, y], 1))
            y = self._block("detail", self.model.num_detail_pairs, y)
            sr = sr + head(y, "sr_detail")
            deblurred = deblurred + head(y, "deblur_detail")
        return {
            "sr": 0.1 * sr + bicubic_upscale(mixed("sr_mix")),
            "deblurred": 0.1 * deblurred + mixed("deblur_mix"),
        }

    def _changes(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the filtered images minus the image, [N, filters, 3, h, w]."""
        n, c, h, w = image.shape
        half = self.bank.shape[-1] // 2
        planes = F.pad(image, [half] * 4, mode="replicate").reshape(
            n * c, 1, h + 2 * half, w + 2 * half
        )
        filtered = F.conv2d(planes, self.bank).reshape(n, c, -1, h, w)
        return filtered.transpose(1, 2) - image[:, None]

    def _coarse(self, energies: torch.Tensor) -> torch.Tensor:
        x = energies
        for i in range(2):
            x = F.relu(self.conv(f"blur_estimator/conv{i}", x))
        logits = self.conv("blur_estimator/logits", x).float()
        logits = torch.cat([logits[:, :1] + 4, logits[:, 1:]], 1)
        return F.interpolate(logits, scale_factor=STRIDE, mode="nearest")

    def _block(self, name: str, num_pairs: int, x: torch.Tensor) -> torch.Tensor:
        for i in range(num_pairs):
            y = F.relu(self.conv(f"{name}/conv{i}a", x))
            x = x + self.conv(f"{name}/conv{i}b", y)
        return x


def _mix(logits: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    shares = logits.softmax(1)[:, 1:]
    return (shares[:, :, None] * changes).sum(1)


def _shuffled(value: np.ndarray, scale: int) -> np.ndarray:
    """Reorders a layer's output channels for PyTorch's pixel shuffle.

    depth_to_space in eddsrn_jax expects channels in the order (row, column, C), PyTorch
    in the order (C, row, column).
    """
    if scale == 1:
        return value
    shape = value.shape
    value = value.reshape(*shape[:-1], scale**2, shape[-1] // scale**2)
    return value.swapaxes(-1, -2).reshape(shape)


def _torch_layout(name: str, value: np.ndarray) -> np.ndarray:
    """Returns a kernel [h, w, in, out] as [out, in, h, w]; other arrays unchanged."""
    if name.endswith("kernel"):
        value = value.transpose(3, 2, 0, 1)
    return np.ascontiguousarray(value)


def bicubic_upscale(x: torch.Tensor) -> torch.Tensor:
    """Enlarges images by 4, as eddsrn_jax.ops.resize.bicubic_upscale does.

    PyTorch's bicubic filter has the same kernel only with antialiasing. It treats edges
    differently, so the images are first extended by mirroring.
    """
    # PyTorch's padding cannot mirror with the edge pixel repeated.
    x = torch.cat([x[:, :, :2].flip(2), x, x[:, :, -2:].flip(2)], 2)
    x = torch.cat([x[:, :, :, :2].flip(3), x, x[:, :, :, -2:].flip(3)], 3)
    x = F.interpolate(x, scale_factor=SCALE, mode="bicubic", antialias=True)
    edge = 2 * SCALE
    return x[:, :, edge:-edge, edge:-edge]


# Losses of a difference of images [N, 3, H, W], by their names in JAX.
_LOSSES: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "mse": lambda x, _: x.square().mean(),
    "charbonnier": lambda x, eps: torch.sqrt(x.square() + eps**2).mean(),
    "log_mse": lambda x, _: torch.log(x.square().mean((1, 2, 3)) + 1e-4).mean(),
}


class TrainerTwin:
    """Trains a twin as the JAX training step does: degradation, gradient, Adam."""

    def __init__(self, twin: Twin, config: ml_collections.ConfigDict, *, dtype: str):
        self._twin, self._config = twin, config
        self._parameters = [p for p in twin.parameters() if p.requires_grad]
        self._device = self._parameters[0].device
        self._optimizer = torch.optim.Adam(
            self._parameters, lr=config.optimizer.learning_rate, fused=True
        )
        self._cast = torch.autocast(
            self._device.type, getattr(torch, dtype), enabled=dtype != "float32"
        )

    def step(self, hr: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Updates the weights from crops, uint8 [N, H, H, 3]; returns the loss."""
        low, high = self._config.degradation.sigma_range
        flips = torch.randint(2, (3, len(hr)), generator=generator).tolist()
        sigma = low + (high - low) * torch.rand(len(hr), generator=generator)
        hr = torch.stack([_turned(x, *f) for x, *f in zip(hr, *flips, strict=True)])
        hr = hr.float() / 255
        with torch.no_grad():
            sharp, blurred = degrade(hr, sigma.to(self._device), max_sigma=high)
        loss = self.loss(*(x.permute(0, 3, 1, 2) for x in (hr, sharp, blurred)))
        self._optimizer.zero_grad()
        loss.backward()
        if clip_norm := self._config.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters, clip_norm)
        self._optimizer.step()
        return loss.detach()

    def loss(
        self, hr: torch.Tensor, sharp: torch.Tensor, blurred: torch.Tensor
    ) -> torch.Tensor:
        """Returns the joint loss, see eddsrn_jax.training.losses.joint_loss.

        Args:
            hr: targets of the x4 image, [N, 3, H, W].
            sharp: targets of the deblurred image, [N, 3, h, w].
            blurred: inputs of the network, [N, 3, h, w].
        """
        with self._cast:
            outputs = self._twin(blurred)
        config = self._config.loss
        sr = _LOSSES[config.sr](outputs["sr"] - hr, config.eps)
        deblurred = _LOSSES[config.deblurred](outputs["deblurred"] - sharp, config.eps)
        return sr + config.alpha * deblurred


def _turned(x: torch.Tensor, transpose: int, rows: int, columns: int) -> torch.Tensor:
    x = x.transpose(0, 1) if transpose else x
    return x.flip([axis for axis, flip in ((0, rows), (1, columns)) if flip])


@functools.cache
def _shrink_matrix(side: int, device: torch.device) -> torch.Tensor:
    """Returns the matrix that shrinks `side` samples, on a device."""
    matrix = downscale_matrix(side, side, SCALE)
    return torch.from_numpy(np.array(matrix)).to(device)


def degrade(
    hr: torch.Tensor, sigma: torch.Tensor, *, max_sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shrinks and blurs a batch, as eddsrn_jax.ops.degradation.degrade does an image.

    Args:
        hr: float [N, H, H, 3] in [0, 1].
        sigma: standard deviations of the blurs, [N], in pixels of the small images.
        max_sigma: upper bound of `sigma`.

    Returns:
        The small sharp images and the small blurred ones, [N, H / 4, H / 4, 3].
    """
    side = hr.shape[1]
    shrink = _shrink_matrix(side, hr.device)
    tall = torch.einsum("ij,njkc->nikc", shrink, hr).clamp(0, 1)
    sharp = torch.einsum("lk,nikc->nilc", shrink, tall).clamp(0, 1)
    radius = math.ceil(2 * max_sigma)
    taps = torch.arange(-radius, radius + 1, device=hr.device)
    weights = torch.exp(-0.5 * (taps / sigma[:, None]).square())
    weights = weights * (taps.abs() <= torch.ceil(2 * sigma)[:, None])
    weights = weights / weights.sum(1, keepdim=True)
    small = side // SCALE
    indices = (torch.arange(small, device=hr.device)[:, None] + taps).clamp(0, small - 1)
    blur = torch.zeros(len(hr), small, small, device=hr.device)
    shape = (len(hr), small, len(taps))
    blur.scatter_add_(2, indices.expand(shape), weights[:, None].expand(shape))
    blurred = torch.einsum("nij,njkc->nikc", blur, sharp)
    blurred = torch.einsum("nlk,nikc->nilc", blur, blurred).clamp(0, 1)
    return sharp, torch.floor(blurred * 255 + 0.5) / 255
