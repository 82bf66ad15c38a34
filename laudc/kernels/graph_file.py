"""A converted program as data: JSON for the graph, safetensors for the weights. Nothing in it can run.

Every node is an input, an element of several results, or one of laudc's ops by name; a program that still holds a
torch operation cannot be written. Types are not stored: they follow from the input's and the specs.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, fx, nn

from laudc.errors import ArtifactError, InputError, LaudcError
from laudc.ops import OPS, Op
from laudc.program import Block, Program, Refusal, program_for, types_of
from laudc.types import TensorType
from laudc.verify import verify

_MALFORMED = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    RuntimeError,
    SafetensorError,
    StopIteration,
    SyntaxError,
)
_LARGEST = 2**24
"""No size in a spec comes near it."""


def graph_json(program: Program) -> dict[str, Any]:
    """The graph as plain data. InputError if it holds a torch operation that laudc has no op for."""
    output = program.graph.graph.output_node()
    result = output.args[0]
    decided: dict[str, tuple[fx.Node, fx.Node]] = {}
    if isinstance(result, tuple):
        result, decided = cast("tuple[fx.Node, dict[str, tuple[fx.Node, fx.Node]]]", result)
    parameters = program.graph.named_parameters(remove_duplicate=False)
    return {
        "nodes": [_node_json(program, node) for node in program.nodes if node.op != "output"],
        "result": cast(fx.Node, result).name,
        "decided": {key: [mask.name, logits.name] for key, (mask, logits) in decided.items()},
        "blocks": [asdict(block) for block in program.blocks],
        "refusals": [asdict(refusal) for refusal in program.refusals],
        "source": dict(program.source),
        "frozen": [name for name, one in parameters if not one.requires_grad],
    }


def _node_json(program: Program, node: fx.Node) -> dict[str, Any]:
    if node.op == "placeholder":
        (type_,) = types_of(node) or (None,)
        return {"name": node.name, "input": type_ and [list(type_.shape), type_.dtype]}
    block = node.meta.get("block", "")
    if node.target is operator.getitem:
        source, index = cast(tuple[fx.Node, int], node.args)
        return {"name": node.name, "element": index, "reads": [source.name], "block": block}
    op = program.op(node)
    if op is None:
        what = getattr(node.target, "__name__", str(node.target))
        raise InputError(
            f"%{node.name} is {what}, which laudc cannot write to a file", "add a file for it to laudc/ops/"
        )
    return {
        "name": node.name,
        "op": op.spec.name,
        "target": node.target,
        "spec": op.spec.to_json(),
        "reads": [cast(fx.Node, value).name for value in node.args],
        "block": block,
    }


def weight_bytes(program: Program) -> bytes:
    """All parameters and buffers as safetensors, by `target.name`."""
    state = program.graph.state_dict()
    return save_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})


def program_from(values: Mapping[str, Any], weights: bytes) -> Program:
    """The inverse of the two. ArtifactError where anything is malformed, missing or of the wrong shape."""
    try:
        program = _build(values, load_tensors(weights))
        shape = next(types_of(node)[0].shape for node in program.nodes if node.op == "placeholder")
        program = program_for(program, shape).finished()
        verify(program)
    except LaudcError:
        raise
    except _MALFORMED as error:
        detail = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ArtifactError(f"the graph in the file does not hold ({detail})", "make the file again") from error
    return program


def _identifier(value: object) -> str:
    """A name that fx may write into the Python it makes of a graph: nothing but an identifier."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or keyword.iskeyword(value):
        raise ValueError(f"{value!r} is no name")
    return value


def _path(value: object) -> str:
    """A dotted path of modules; a part may be a number, as in a Sequential."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", value):
        raise ValueError(f"{value!r} is no path of a module")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"a {type(value).__name__} stands for a list")
    return value


def _build(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Program:
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    modules: dict[str, Any] = {}
    frozen = frozenset(_list(values.get("frozen", [])))  # older files do not say
    for entry in values["nodes"]:
        reads = tuple(made[name] for name in entry.get("reads", ()))
        name = _identifier(entry["name"])
        if name in made:
            raise ValueError(f"two values are called {name}")
        if "input" in entry:
            if len(made) > 1 or (name == "masks") != (not entry["input"]) or (not entry["input"] and not made):
                raise ValueError("the inputs are not an image, then masks")
            node = graph.create_node("placeholder", name, () if entry["input"] else (None,), name=name)
            if entry["input"]:
                shape, dtype = entry["input"]
                node.meta["types"] = (TensorType(shape=tuple(shape), dtype=dtype),)
        elif "element" in entry:
            node = graph.create_node("call_function", operator.getitem, (*reads, int(entry["element"])), name=name)
        else:
            target = _path(entry["target"])
            modules.setdefault(target, _op(entry, target, tensors, frozen))
            node = graph.create_node("call_module", target, reads, name=name)
        node.meta["block"] = str(entry.get("block", ""))
        made[name] = node
    result: Any = made[values["result"]]
    if values["decided"] or "masks" in made:
        result = (result, {_path(key): (made[mask], made[logits]) for key, (mask, logits) in values["decided"].items()})
    graph.output(result)
    trainable = {f"{target}.{name}" for target, op in modules.items() for name in op.spec.weights()}
    if not frozen <= trainable:
        raise ValueError(f"{min(frozen - trainable, key=repr)!r} is frozen, but no parameter")
    return Program(
        graph=fx.GraphModule(modules, graph),
        blocks=tuple(_block(block) for block in values["blocks"]),
        refusals=tuple(Refusal(**refusal) for refusal in values["refusals"]),
        source={str(key): str(value) for key, value in values["source"].items()},
    )


def _op(entry: Mapping[str, Any], target: str, tensors: Mapping[str, Tensor], frozen: Collection[object]) -> Op:
    kind = OPS[entry["op"]]
    _check_numbers(entry["spec"])
    spec = kind.spec_type.from_json(entry["spec"])
    op = kind(spec)
    for name, shape in {**spec.weights(), **spec.buffers()}.items():
        tensor = tensors[f"{target}.{name}"]
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{target}.{name} is {list(tensor.shape)}, its op wants {list(shape)}")
        if name in spec.weights():
            trained = f"{target}.{name}" not in frozen
            op.register_parameter(name, nn.Parameter(tensor.to(torch.float32), requires_grad=trained))
        else:
            op.register_buffer(name, tensor)
    return op


def _check_numbers(fields: Mapping[str, Any]) -> None:
    """Every size is a plausible number, and those that are divided by are not zero."""
    for name, value in fields.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and not isinstance(number, bool):
                least = 1 if name in ("kernel", "stride", "dilation", "groups", "channels", "group") else 0
                if not least <= number <= _LARGEST:
                    raise ValueError(f"{name} is {number}")


def _block(values: Mapping[str, Any]) -> Block:
    known = {field.name for field in fields(Block)}
    if values.keys() != known:
        raise ValueError(f"a block has the fields {sorted(values)}")
    clean: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Block(**clean)
