"""Net: a few lines of ONNX graph building, with seeded weights and planted channels.

A builder plants channels (zero filters, constant filters, columns that no filter reads) and *claims* what it planted.
A claim is a statement about the original model alone, so the tests can check it without the package under test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

Dimension = int | str | None


@dataclass(frozen=True)
class Claim:
    """What holds for some slices of a tensor in the original model.

    `kind` is "known" (the slice has one value, whatever the input) or "unread" (any value there gives the same output).
    """

    kind: str
    tensor: str
    indices: tuple[int, ...]
    axis: int = 1


@dataclass
class Net:
    """A graph under construction; every method that adds a node returns the name of its first output."""

    seed: int = 0
    dtype: type = np.float32
    opset: int = 17
    ir_version: int = 8
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []
        self.initializers: list[TensorProto] = []
        self.metadata: dict[str, str] = {}
        self.list_initializers_as_inputs = False
        self.keep_value_info = False
        self.sparse: tuple[str, ...] = ()
        self.domains: dict[str, int] = {}
        self.functions: list[onnx.FunctionProto] = []
        self.declared: dict[str, Sequence[Dimension]] = {}
        """Shapes of outputs that ONNX does not infer."""

    # --- tensors

    def input(self, name: str, shape: Sequence[Dimension], dtype: type | None = None) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, *names: str) -> Net:
        self.outputs.extend(names)
        return self

    def const(self, value: object, name: str | None = None) -> str:
        """An initializer; Python floats and float arrays take the dtype of the net, integers become int64."""
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(self.dtype)
        elif array.dtype == np.int64 or array.dtype == np.int32:
            array = array.astype(np.int64)
        name = name or f"const_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return self.rng.standard_normal(shape) * scale

    # --- nodes

    def op(self, op_type: str, *inputs: str, count: int = 1, name: str | None = None, **attributes: object) -> str:
        """One node; with `count` above 1 the other outputs are named `<first>:1`, `<first>:2`, ..."""
        first = name or f"{op_type.lower()}_{len(self.nodes)}"
        outputs = [first, *(f"{first}:{i}" for i in range(1, count))]
        domain = attributes.pop("domain", "")
        if domain:
            self.domains[domain] = 1
        node = helper.make_node(op_type, inputs, outputs, name=f"node_{first}", domain=domain, **attributes)
        self.nodes.append(node)
        return first

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        kernel: int = 3,
        *,
        pad: int | None = None,
        stride: int = 1,
        group: int = 1,
        dims: int = 2,
        bias: bool = True,
        zero: Iterable[int] = (),
        constant: Mapping[int, float] | None = None,
        unread: Iterable[int] = (),
        transposed: bool = False,
        weight: str | None = None,
        bias_name: str | None = None,
        name: str | None = None,
        **attributes: object,
    ) -> str:
        """A Conv or ConvTranspose with planted channels; `pad` defaults to kernel // 2.

        Args:
            zero: output channels with filter and bias zero.
            constant: output channel -> bias, with the filter zero.
            unread: input channels (within a group) whose column is zero in every filter.
            weight, bias_name: initializers to share instead of new ones.
        """
        if weight is None:
            array = self.filters(cin, cout, kernel, group=group, dims=dims, transposed=transposed)
            self.plant(array, [*zero, *(constant or {})], unread, group=group, transposed=transposed)
            weight = self.const(array)
        inputs = [x, weight]
        if bias_name is not None:
            inputs.append(bias_name)
        elif bias:
            values = self.normal(cout, scale=0.5)
            values[list(zero)] = 0
            for channel, value in (constant or {}).items():
                values[channel] = value
            inputs.append(self.const(values))
        pad = kernel // 2 if pad is None else pad
        if "auto_pad" not in attributes:
            attributes.setdefault("pads", [pad] * 2 * dims)
        attributes.setdefault("kernel_shape", [kernel] * dims)
        attributes.setdefault("strides", [stride] * dims)
        op_type = "ConvTranspose" if transposed else "Conv"
        return self.op(op_type, *inputs, name=name, group=group, **attributes)

    def filters(
        self, cin: int, cout: int, kernel: int, *, group: int = 1, dims: int = 2, transposed: bool = False
    ) -> np.ndarray:
        """[cout, cin/group, k...], or [cin, cout/group, k...] when transposed, of unit output variance."""
        fan_in = cin // group * kernel**dims
        rows, columns = (cin, cout // group) if transposed else (cout, cin // group)
        return self.normal(rows, columns, *[kernel] * dims, scale=fan_in**-0.5)

    @staticmethod
    def plant(
        weight: np.ndarray, outputs: Iterable[int], unread: Iterable[int], *, group: int = 1, transposed: bool = False
    ) -> None:
        """Zeroes filters and columns of `weight` in place; `outputs` count through all groups."""
        if transposed:
            per_group = weight.shape[1]
            for channel in outputs:
                rows = weight.shape[0] // group
                start = channel // per_group * rows
                weight[start : start + rows, channel % per_group] = 0
            weight[list(unread)] = 0
        else:
            weight[list(outputs)] = 0
            weight[:, list(unread)] = 0

    def batch_norm(
        self,
        x: str,
        channels: int,
        *,
        zero: Iterable[int] = (),
        constant: Mapping[int, float] | None = None,
        name: str | None = None,
    ) -> str:
        """Inference BatchNormalization; `zero` has gamma = beta = 0, `constant` has gamma = 0 and that beta."""
        gamma, beta = self.rng.uniform(0.5, 1.5, channels), self.normal(channels, scale=0.2)
        gamma[[*zero, *(constant or {})]] = 0
        beta[list(zero)] = 0
        for channel, value in (constant or {}).items():
            beta[channel] = value
        statistics = self.normal(channels, scale=0.2), self.rng.uniform(0.5, 1.5, channels)
        values = [self.const(array) for array in (gamma, beta, *statistics)]
        return self.op("BatchNormalization", x, *values, name=name, epsilon=1e-5)

    # --- claims

    def known(self, tensor: str, indices: Iterable[int], axis: int = 1) -> str:
        self.claims.append(Claim("known", tensor, tuple(indices), axis))
        return tensor

    def unread(self, tensor: str, indices: Iterable[int], axis: int = 1) -> str:
        self.claims.append(Claim("unread", tensor, tuple(indices), axis))
        return tensor

    # --- the model

    def model(self) -> ModelProto:
        """The checked model; output types come from ONNX shape inference."""
        outputs = [onnx.ValueInfoProto(name=name) for name in self.outputs]
        inputs = list(self.inputs)
        if self.list_initializers_as_inputs:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in self.initializers]
        dense = [tensor for tensor in self.initializers if tensor.name not in self.sparse]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, initializer=dense)
        graph.sparse_initializer.extend(sparse(t) for t in self.initializers if t.name in self.sparse)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, v) for d, v in self.domains.items())]
        model = helper.make_model(
            graph, ir_version=self.ir_version, opset_imports=opsets, producer_name="zoo", functions=self.functions
        )
        if self.metadata:
            helper.set_model_props(model, self.metadata)
        inferred = onnx.shape_inference.infer_shapes(model)
        types = {value.name: value for value in [*inferred.graph.output, *inferred.graph.value_info]}
        unknown = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        for output in model.graph.output:
            inferred_type = types[output.name].type
            if output.name in self.declared:
                output.type.CopyFrom(helper.make_tensor_type_proto(unknown, self.declared[output.name]))
            elif inferred_type.tensor_type.elem_type:
                output.type.CopyFrom(inferred_type)
            else:
                output.type.CopyFrom(helper.make_tensor_type_proto(unknown, [None] * 4))
        if self.keep_value_info:
            model.graph.value_info.extend(inferred.graph.value_info)
        onnx.checker.check_model(model)
        return model


def sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    """The same tensor in sparse storage, with linear indices."""
    array = numpy_helper.to_array(tensor).ravel()
    indices = np.flatnonzero(array)
    values = numpy_helper.from_array(array[indices], tensor.name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(indices.astype(np.int64)), list(tensor.dims))


def parameters(model: ModelProto, *, integers: bool = False) -> int:
    """The number of floating-point values in initializers and Constant nodes, those of sub-graphs included.

    With `integers`, those of the types of quantized weights and biases count as well.
    """

    def counts(kind: int) -> bool:
        return is_float(kind) or (integers and kind in (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32))

    def of_graph(graph: onnx.GraphProto) -> int:
        tensors = [tensor.dims for tensor in graph.initializer if counts(tensor.data_type)]
        tensors += [sparse.values.dims for sparse in graph.sparse_initializer if counts(sparse.values.data_type)]
        total = sum(int(np.prod(dims, dtype=np.int64)) for dims in tensors)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    total += of_graph(attribute.g)
                elif node.op_type == "Constant" and attribute.name == "value" and counts(attribute.t.data_type):
                    total += int(np.prod(attribute.t.dims, dtype=np.int64))
        return total

    return of_graph(model.graph)


def is_float(kind: int) -> bool:
    return kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def conv_outputs(model: ModelProto) -> int:
    """Output channels summed over Conv nodes whose weight is an initializer."""
    weights = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    return sum(weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv")
