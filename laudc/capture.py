"""From an nn.Module to a Program: trace, give every value a type, put laudc's ops in the place of torch's.

The module is copied first: the user's own is never touched. What laudc has no op for stays a torch node. The
captured program is run against the module once; if they differ (aliasing tricks, hidden state), capture fails. For that
run alone norms whose scale is zero get another one: behind a zero no difference would show.
"""

from __future__ import annotations

import copy
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Target
from torch.fx.operator_schemas import ArgsKwargsPair

from laudc.compare import relative_error
from laudc.errors import CaptureError, InputError
from laudc.ops import OPS, Op
from laudc.ops.activation import Activation, ActivationSpec
from laudc.ops.base import Call, Importer
from laudc.ops.batch_norm import import_batch_norm
from laudc.program import Program, retype, types_of
from laudc.types import DTYPE_BYTES, TensorType

_TOLERANCE = 1e-4
_SOME_SCALE = 0.2  # with 1, a deep network could overflow


def capture(model: nn.Module, example: Tensor, *, source: Mapping[str, str] | None = None) -> Program:
    """The typed program of `model`, for inputs like `example` (B, C, H, W).

    Raises CaptureError where the module's Python cannot be traced (control flow on values), where it does not
    accept the example, or where the traced program computes something else.
    """
    if example.ndim != 4 or example.dtype != torch.float32 or 0 in example.shape:
        raise InputError(
            f"the example input is {str(example.dtype).removeprefix('torch.')}{list(example.shape)}",
            "give a float32 image batch (B, C, H, W)",
        )
    modes = {name: module.training for name, module in model.named_modules()}
    owned = copy.deepcopy(model).eval()
    graph_module = _trace(owned)
    with torch.no_grad(), _no_zero_scales(owned):
        expected = _run(owned, example.clone())  # the network may write into what it is given
        _Typer(graph_module).run(example.clone())
        program = Program(graph=_with_ops(graph_module), source=dict(source or {})).finished()
        found = program(example.clone())[0]  # its weights are those of `owned`
    error = relative_error(found, expected)
    if error > _TOLERANCE:
        raise CaptureError(
            f"the traced network differs from the module by {error:.1e}",
            "look for tensors that are changed in place and read again under their old name",
        )
    program.graph.train(model.training)
    for node, op in program.ops():
        op.train(modes.get(str(node.target), model.training))  # a norm that its user froze stays frozen
    return program


@contextmanager
def _no_zero_scales(model: nn.Module) -> Iterator[None]:
    """Zeros among the scales of norms are another number for a while; many networks begin with such a branch."""
    scales = [getattr(module, "weight", None) for module in model.modules() if "Norm" in type(module).__name__]
    changed = [(scale, scale.clone()) for scale in scales if isinstance(scale, Tensor) and bool((scale == 0).any())]
    for scale, _ in changed:
        scale.masked_fill_(scale == 0, _SOME_SCALE)
    try:
        yield
    finally:
        for scale, before in changed:
            scale.copy_(before)


def _run(model: nn.Module, example: Tensor) -> Tensor:
    try:
        out = model(example)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        shape = list(example.shape)
        raise CaptureError(
            f"the model does not run on an input of {shape}: {_first_line(error)}",
            "try another size (--size, in Python example_inputs=...)",
        ) from error
    if not isinstance(out, Tensor):
        raise CaptureError(f"the model returns a {type(out).__name__}", "wrap it in a module that returns one tensor")
    if not bool(torch.isfinite(out).all()):
        raise CaptureError(
            "the model's output on the example is not finite", "check its weights and the example's range"
        )
    return out


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _trace(model: nn.Module) -> fx.GraphModule:
    _refuse_second_input(model)
    leaves, wrapped = _timm_leaves(model)
    try:
        graph = _Tracer(leaves, wrapped).trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError, AttributeError, NotImplementedError) as error:
        raise CaptureError(
            f"the forward of {type(model).__name__} cannot be traced: {_first_line(error)}",
            "take control flow that depends on values out of forward, or convert the part without it",
        ) from error
    _refuse_taken_names(graph)
    return fx.GraphModule(model, graph)


def _refuse_taken_names(graph: fx.Graph) -> None:
    """A GraphModule holds what the graph calls beside attributes of its own, such as `graph` and `code`."""
    own = {*dir(fx.GraphModule), *vars(fx.GraphModule(nn.Module(), fx.Graph()))} - {*dir(nn.Module), *vars(nn.Module())}
    for node in graph.nodes:
        name = str(node.target).partition(".")[0]
        if node.op in ("call_module", "get_attr") and name in own:
            raise CaptureError(
                f"the model has a submodule called {name}, a name that torch.fx uses itself", "rename it"
            )


def _refuse_second_input(model: nn.Module) -> None:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY)
    for other in list(inspect.signature(model.forward).parameters.values())[1:]:
        if other.kind in named and other.default is inspect.Parameter.empty:
            raise CaptureError(
                f"the model needs a second input, {other.name}", "wrap it in a module that takes one image batch"
            )


class _Tracer(fx.Tracer):
    """Calls forward with the image batch alone, so every other argument has its default."""

    def __init__(self, leaves: tuple[type[nn.Module], ...], wrapped: tuple[Callable[..., object], ...]) -> None:
        super().__init__(autowrap_functions=wrapped)
        self._leaves = leaves

    def create_args_for_root(
        self, root_fn: Callable[..., object], is_module: bool, concrete_args: object = None
    ) -> tuple[Callable[..., object], list[object]]:
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, self._leaves) or super().is_leaf_module(module, qualified_name)


def _timm_leaves(model: nn.Module) -> tuple[tuple[type[nn.Module], ...], tuple[Callable[..., object], ...]]:
    """timm's own list of what must not be traced into: else its norms freeze in the mode they were traced in."""
    if not any(type(module).__module__.startswith("timm.") for module in model.modules()):
        return (), ()
    from timm.layers import get_notrace_functions, get_notrace_modules

    return tuple(get_notrace_modules()), tuple(get_notrace_functions())


class _Typer(fx.Interpreter):
    """Runs the graph once and writes down the type of every value."""

    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        if isinstance(value, Tensor) and _dtype(value) in DTYPE_BYTES:
            node.meta["types"] = (TensorType(shape=tuple(value.shape), dtype=_dtype(value)),)
        return value


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _with_ops(traced: fx.GraphModule) -> fx.GraphModule:
    """The graph with an op in every place that an importer knows."""
    importers: dict[object, Importer] = {}
    for name in OPS:
        module = sys.modules[OPS[name].__module__]
        importers.update(getattr(module, "FROM_TORCH", {}))
    made: dict[str, Op] = {}
    for node in list(traced.graph.nodes):
        if _is_identity(traced, node):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
        elif node.op == "call_module" and _is_norm_with_activation(traced.get_submodule(node.target)):
            _split_norm_and_activation(traced, node)
        else:
            _import_node(traced, node, importers, made)
    return traced


def _is_identity(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return node.op == "call_method" and node.target == "contiguous"
    module = traced.get_submodule(cast(str, node.target))
    return isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0)


def _is_norm_with_activation(module: nn.Module) -> bool:
    return type(module).__name__ == "BatchNormAct2d" and isinstance(module, nn.BatchNorm2d)


_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.Identity: "none",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
}


def _split_norm_and_activation(traced: fx.GraphModule, node: fx.Node) -> None:
    """timm's BatchNormAct2d is two ops here: the norm, under its own name, and the activation."""
    module = traced.get_submodule(cast(str, node.target))
    function = _ACTIVATIONS.get(type(cast(nn.Module, module.act)))
    norm = import_batch_norm(Call(module=module, tensors=(), types=(), arguments={}, result=None))
    if function is None or norm is None or not isinstance(module.drop, nn.Identity):
        return
    _put(traced, node, norm)
    if function == "none":
        return
    activation = Activation(ActivationSpec(function=function))
    target = f"{node.name}_activation"
    traced.add_submodule(target, activation)
    with traced.graph.inserting_after(node):
        call = traced.graph.call_module(target, (node,))
    node.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)
    call.meta = dict(node.meta)


def _import_node(
    traced: fx.GraphModule, node: fx.Node, importers: Mapping[object, Importer], made: dict[str, Op]
) -> None:
    if node.op == "call_module":
        key: object = type(traced.get_submodule(cast(str, node.target)))
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        key = _method(name, importers) if name.endswith("_") else node.target  # torch.relu_ is torch.relu
    elif node.op == "call_method":
        key = _method(cast(str, node.target), importers)
    else:
        return
    importer = importers.get(key)
    if importer is None:
        return
    call = _call(traced, node)
    if call is None:
        return
    known = made.get(cast(str, node.target)) if node.op == "call_module" else None
    op = known or importer(call)
    if op is None:
        return
    if node.op == "call_module" and (op.spec.weights() or op.spec.buffers()):
        made[cast(str, node.target)] = op
    _put(traced, node, op)


def _method(name: str, importers: Mapping[object, Importer]) -> object:
    """The function a tensor method stands for: `x.add_(y)` is torch.add."""
    plain = name.removesuffix("_")
    for owner in (torch, torch.Tensor):
        function = getattr(owner, plain, None)
        if function in importers:
            return function
    return None


def _call(traced: fx.GraphModule, node: fx.Node) -> Call | None:
    module = traced.get_submodule(cast(str, node.target)) if node.op == "call_module" else None
    arguments: dict[str, object] = {}
    if module is None and node.target not in (operator.add, operator.iadd):
        arguments = _named_arguments(traced, node)
    given = (*node.args, *node.kwargs.values())
    tensors = tuple(value for value in given if isinstance(value, fx.Node) and types_of(value))
    types = tuple(types_of(tensor)[0] for tensor in tensors)
    result = types_of(node)[0] if types_of(node) else None
    if not tensors or result is None:
        return None
    return Call(module=module, tensors=tuple(t.name for t in tensors), types=types, arguments=arguments, result=result)


def _named_arguments(traced: fx.GraphModule, node: fx.Node) -> dict[str, object]:
    target: Target = node.target
    if node.op == "call_method":
        function = getattr(torch, cast(str, target).removesuffix("_"), None)
        if function is None:
            return dict(node.kwargs)
        probe = traced.graph.call_function(function, node.args, dict(node.kwargs))
        named = _normalized(traced, probe)
        traced.graph.erase_node(probe)
    else:
        named = _normalized(traced, node)
    found = named.kwargs if named is not None else node.kwargs
    return {key: None if isinstance(value, fx.Node) else value for key, value in found.items()}


def _normalized(traced: fx.GraphModule, node: fx.Node) -> ArgsKwargsPair | None:
    kinds = tuple(_kind(value) for value in node.args)
    named_kinds = {name: _kind(value) for name, value in node.kwargs.items()}
    return node.normalized_arguments(
        traced,
        kinds,  # type: ignore[arg-type]  # torch writes tuple[Any] for a tuple of any length
        named_kinds,
        normalize_to_only_use_kwargs=True,
    )


def _kind(value: object) -> type:
    """A value's type as torch matches it with a schema: of a tuple with the types of its items, before torch 2.13."""
    if isinstance(value, fx.Node):
        return Tensor
    if isinstance(value, list | tuple) and value:
        return tuple[tuple(_kind(item) for item in value)]  # type: ignore[misc, return-value]  # made while running
    return type(value)


def _put(traced: fx.GraphModule, node: fx.Node, op: Op) -> None:
    """Let the node call the op, with its tensor operands only."""
    given = (*node.args, *node.kwargs.values())
    operands = tuple(value for value in given if isinstance(value, fx.Node) and types_of(value))
    keeps_name = node.op == "call_module" and (op.spec.weights() or op.spec.buffers())
    target = cast(str, node.target) if keeps_name else f"{node.name}_op"
    op.train(traced.training)
    traced.add_submodule(target, op)
    node.op, node.target, node.args, node.kwargs = "call_module", target, operands[: len(op.spec.operands)], {}
    retype(node, op)
