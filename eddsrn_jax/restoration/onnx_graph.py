"""Converts networks to ONNX, operation by operation, with the optional library onnx.

JAX records the operations of a network for images of unknown size. Operations on
parameters alone are computed now; each other one becomes a few ONNX nodes. Only the
operations that this project's networks use are known. ONNX convolves [N, C, H, W], so
every convolution is between two transpositions, most of which runtimes cancel.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core as jex
import numpy as np

from eddsrn_jax.errors import InputError
from eddsrn_jax.files import written_beside
from eddsrn_jax.models import STRIDE, abstract_outputs, apply

_OPSET = 17
# A size of a recorded array, such as "8*h + 2": a factor, a name and a summand.
_SIZE = re.compile(r"(?:(\d+)\*)?([bhw])(?: ([+-]) (\d+))?")
# Operations that correspond to one ONNX node, which broadcasts its inputs.
_ELEMENTWISE = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max"},
    **{"exp": "Exp", "log": "Log", "abs": "Abs", "ge": "GreaterOrEqual"},
    "stop_gradient": "Identity",
}
# Operations that call a function once. The names differ between versions of JAX.
_CALLS = (
    *("jit", "pjit", "closed_call", "core_call"),
    *("checkpoint", "remat", "remat2"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
)


def write_onnx(path: Path, model: nn.Module, params: Any) -> None:
    """Writes a network as an ONNX file that computes in float32.

    Its input "image" is float32 [N, h, w, 3] in [0, 1], of any size. The file extends the
    image to multiples of 8 by mirroring, and cuts the outputs. Their names are those of
    the network's outputs, such as "sr" and "deblurred"; they are not clipped.

    Args:
        path: file to write.
        model: network.
        params: network parameters.

    Raises:
        InputError: onnx is not installed, the network has an operation that is not known
            here, or the file cannot be written.
    """
    try:
        import onnx  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise InputError(
            'ONNX files need the library onnx; run pip install "eddsrn_jax[onnx]"'
        ) from error
    model, params = model.clone(dtype="float32"), jax.device_get(params)
    sizes = jax.export.symbolic_shape(f"b, {STRIDE}*h, {STRIDE}*w, 3")
    images = jax.ShapeDtypeStruct(sizes, "float32")
    restore = lambda images: apply(model, params, images)  # noqa: E731
    recorded, outputs = jax.make_jaxpr(restore, return_shape=True)(images)
    graph = _Graph(onnx.helper, onnx.numpy_helper)
    results = graph.run(recorded.jaxpr, recorded.consts, [graph.extend("image")])
    leaves = jax.tree.leaves(outputs)
    names = sorted(outputs)
    scales = {name: x.shape[1] // STRIDE for name, x in abstract_outputs(model).items()}
    for name, result in zip(names, results, strict=True):
        result = graph.cut(result, "image", scales[name])
        graph.nodes.append(onnx.helper.make_node("Identity", [result], [name]))
    declare = onnx.helper.make_tensor_value_info
    unknown = [None, None, None]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            type(model).__name__,
            [declare("image", onnx.TensorProto.FLOAT, [*unknown, 3])],
            [
                declare(name, onnx.TensorProto.FLOAT, [*unknown, leaf.shape[-1]])
                for name, leaf in zip(names, leaves, strict=True)
            ],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        # The version of the format that belongs to the opset; runtimes refuse newer ones.
        ir_version=8,
        producer_name="eddsrn_jax",
    )
    onnx.checker.check_model(proto, full_check=True)
    try:
        with written_beside(path) as temporary:
            temporary.write_bytes(proto.SerializeToString())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


class _Graph:
    """Nodes and constants of an ONNX graph, and the conversion of JAX's operations.

    A value is an array if it is known now, otherwise the name of a node's output.
    """

    def __init__(self, helper: Any, numpy_helper: Any):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._helper, self._numpy_helper = helper, numpy_helper
        self._cache: dict[Any, str] = {}
        # Arrays that are to be broadcast, by identity, and the sizes to broadcast to.
        # Elementwise operations broadcast by themselves.
        self._pending: dict[int, tuple[np.ndarray, Sequence[Any]]] = {}
        # Name of the recorded operations' input, whose size names the others.
        self._input = ""

    def extend(self, image: str) -> str:
        """Mirrors images [N, h, w, C] at their end to multiples of STRIDE."""
        for axis in (1, 2):
            size = self._node("Shape", image, start=axis, end=axis + 1)
            size = self._node("Squeeze", size)
            blocks = self._node("Div", self._node("Add", size, STRIDE - 1), STRIDE)
            index = self._node("Range", 0, self._node("Mul", blocks, STRIDE), 1)
            # The function `mirrored` of ops/resize.py computes the same indices.
            double = self._node("Mul", size, 2)
            index = self._node("Mod", index, double)
            opposite = self._node("Sub", self._node("Sub", double, 1), index)
            index = self._node("Min", index, opposite)
            image = self._node("Gather", image, index, axis=axis)
        self._input = image
        return image

    def cut(self, output: str, image: str, scale: int) -> str:
        """Cuts an output to `scale` times the size of the image that was extended."""
        size = self._node("Shape", image, start=1, end=3)
        size = self._node("Mul", size, np.array([scale]))
        return self._node("Slice", output, np.array([0, 0]), size, np.array([1, 2]))

    def run(self, jaxpr: Any, consts: Iterable[Any], inputs: Iterable[Any]) -> list[Any]:
        """Converts recorded operations; returns the values of their outputs."""
        values = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, inputs, strict=True))

        def value(x: Any) -> Any:
            return np.asarray(x.val) if isinstance(x, jex.Literal) else values[x]

        for equation in jaxpr.eqns:
            arguments = [value(x) for x in equation.invars]
            name, parameters = equation.primitive.name, equation.params
            if name in _CALLS:
                # The parameter that holds the function's operations.
                inner = parameters.get("jaxpr") or parameters["call_jaxpr"]
                # Functions that are recomputed for gradients have no constants.
                closed = isinstance(inner, jex.ClosedJaxpr)
                consts = inner.consts if closed else ()
                found = self.run(inner.jaxpr if closed else inner, consts, arguments)
            elif equation.primitive.multiple_results:
                # Such as scan, a loop.
                raise InputError(f"the operation {name!r} cannot be written as ONNX")
            else:
                found = [self._convert(equation, arguments)]
            values |= zip(equation.outvars, found, strict=True)
        return [value(x) for x in jaxpr.outvars]

    def _convert(self, equation: Any, arguments: list[Any]) -> Any:
        name, shape = equation.primitive.name, equation.outvars[0].aval.shape
        known = not any(isinstance(x, str) for x in arguments)
        fixed = all(isinstance(size, int) for size in shape)
        if known and fixed and not any(id(x) in self._pending for x in arguments):
            return np.asarray(equation.primitive.bind(*arguments, **equation.params))
        if name in _ELEMENTWISE:
            if known:
                arguments[0] = self._broadcast(arguments[0])
            return self._node(_ELEMENTWISE[name], *arguments)
        convert: Callable[..., Any] | None = getattr(self, f"_convert_{name}", None)
        if convert is None:
            raise InputError(f"the operation {name!r} cannot be written as ONNX")
        if name != "broadcast_in_dim":
            arguments = [self._broadcast(x) for x in arguments]
        # Reshaping and broadcasting record some of these among their own parameters.
        sizes = {"shape": shape, "source": equation.invars[0].aval.shape}
        return convert(*arguments, **{**equation.params, **sizes})

    def _node(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        names = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        output = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, names, [output], **attributes))
        return output

    def _constant(self, array: Any) -> str:
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._cache:
            self._cache[key] = f"constant{len(self.constants)}"
            tensor = self._numpy_helper.from_array(array, self._cache[key])
            self.constants.append(tensor)
        return self._cache[key]

    def _sizes(self, sizes: Sequence[Any]) -> Any:
        """Returns sizes as int64 [n]: an array, or the name of a computed one."""
        if all(isinstance(size, int) for size in sizes):
            return np.array(sizes, np.int64)
        key = f"sizes {sizes}"
        if key not in self._cache:
            parts = [self._size(str(size)) for size in sizes]
            self._cache[key] = self._node("Concat", *parts, axis=0)
        return self._cache[key]

    def _size(self, text: str) -> Any:
        """Returns a size such as "8*h + 2", as int64 [1]."""
        if text.isdecimal():
            return np.array([int(text)])
        if text not in self._cache:
            match = _SIZE.fullmatch(text)
            if match is None:
                raise InputError(f"the size {text} cannot be written as ONNX")
            axis = "bhw".index(match[2])
            size = self._node("Shape", self._input, start=axis, end=axis + 1)
            if axis:
                size = self._node("Div", size, np.array([STRIDE]))
            kinds = {"+": "Add", "-": "Sub", None: ""}
            for kind, number in (("Mul", match[1]), (kinds[match[3]], match[4])):
                if number:
                    size = self._node(kind, size, np.array([int(number)]))
            self._cache[text] = size
        return self._cache[text]

    def _reshaped(self, x: Any, shape: Sequence[Any]) -> str:
        # By default, ONNX's Reshape takes a size of 0 as "keep the input's size".
        return self._node("Reshape", x, self._sizes(shape), allowzero=1)

    def _broadcast(self, value: Any) -> Any:
        if id(value) not in self._pending:
            return value
        array, shape = self._pending[id(value)]
        return self._node("Expand", array, self._sizes(shape))

    # Each of the following converts one of JAX's operations. It takes the operation's
    # parameters, the shape of the result, and the shape of the first argument (source).

    def _convert_broadcast_in_dim(self, x, *, shape, source, broadcast_dimensions, **_):
        # A pending array has its own shape, which is smaller than the recorded one.
        source = source if isinstance(x, str) else np.shape(x)
        sizes: list[Any] = [1] * len(shape)
        for axis, size in zip(broadcast_dimensions, source, strict=True):
            sizes[axis] = size
        if isinstance(x, str):
            return self._node("Expand", self._reshaped(x, sizes), self._sizes(shape))
        array = np.array(x).reshape(sizes)
        self._pending[id(array)] = (array, shape)
        return array

    def _convert_conv_general_dilated(
        self, x, kernel, *, padding, dimension_numbers, **options
    ):
        if {*options["lhs_dilation"], options["batch_group_count"]} != {1}:
            raise InputError("a transposed convolution cannot be written as ONNX")
        images, kernels, outputs = dimension_numbers
        (top, bottom), (left, right) = padding
        attributes = {
            "pads": [top, left, bottom, right],
            "strides": options["window_strides"],
            "dilations": options["rhs_dilation"],
            "group": options["feature_group_count"],
        }
        x = self._node("Transpose", x, perm=images)
        kernel = np.ascontiguousarray(np.transpose(kernel, kernels))
        x = self._node("Conv", x, kernel, **attributes)
        return self._node("Transpose", x, perm=np.argsort(outputs).tolist())

    def _convert_reshape(self, x, *, shape, **_):
        return self._reshaped(x, shape)

    def _convert_transpose(self, x, *, permutation, **_):
        return self._node("Transpose", x, perm=list(permutation))

    def _convert_slice(self, x, *, start_indices, limit_indices, strides, **_):
        axes = np.arange(len(start_indices))
        steps = np.array(strides or np.ones_like(axes))
        starts, ends = self._sizes(start_indices), self._sizes(limit_indices)
        return self._node("Slice", x, starts, ends, axes, steps)

    def _convert_gather(self, x, start, *, shape, dimension_numbers, slice_sizes, **_):
        # JAX records a slice of unknown size as the gathering of one block.
        starts = np.zeros(len(slice_sizes), np.int64)
        starts[list(dimension_numbers.start_index_map)] = start
        ends = [size + int(s) for size, s in zip(slice_sizes, starts, strict=True)]
        axes = np.arange(len(starts))
        x = self._node("Slice", x, starts, self._sizes(ends), axes)
        return self._reshaped(x, shape)

    def _convert_rev(self, x, *, dimensions, **_):
        axes = np.array(dimensions)
        # From the last index down to the first. The end is excluded. An end of -1 would
        # mean the last index, so the end is the least integer.
        first, last = np.full_like(axes, -1), np.full_like(axes, np.iinfo(np.int64).min)
        return self._node("Slice", x, first, last, axes, np.full_like(axes, -1))

    def _convert_concatenate(self, *parts, dimension, **_):
        return self._node("Concat", *parts, axis=dimension)

    def _convert_stack(self, *parts, axis, **_):
        parts = [self._node("Unsqueeze", x, np.array([axis])) for x in parts]
        return self._node("Concat", *parts, axis=axis)

    def _convert_reduce_sum(self, x, *, axes, **_):
        return self._node("ReduceSum", x, np.array(axes), keepdims=0)

    def _convert_reduce_max(self, x, *, axes, **_):
        return self._node("ReduceMax", x, axes=list(axes), keepdims=0)

    def _convert_square(self, x, **_):
        return self._node("Mul", x, x)

    def _convert_select_n(self, which, off, on, **_):
        return self._node("Where", which, on, off)

    def _convert_dot_general(self, x, y, *, dimension_numbers, **_):
        if dimension_numbers != (((3,), (0,)), ((), ())):
            raise InputError("only products with a matrix can be written as ONNX")
        return self._node("MatMul", x, y)
