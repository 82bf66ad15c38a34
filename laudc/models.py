"""Networks by name: torchvision's, timm's, or one in a file of your own.

    resnet50            torchvision, with its default weights
    timm/resnet50       timm; a tag picks the weights: timm/resnet50.a1_in1k
    path/net.py:Net     Net() of that file; a function that returns a module will do

Pretrained weights are taken from the caches of torch and Hugging Face, or downloaded; where that cannot be done the
network keeps random ones, a note says so, and `source["weights"]` is "random". Nothing is unpickled but tensors.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import socket
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from urllib.parse import urlsplit

import torch
from torch import nn

from laudc.errors import InputError, UnknownName
from laudc.ops.batch_norm import BatchNorm
from laudc.preprocess import Preprocessing
from laudc.program import Program

RANDOM, OWN = "random", "own"
_BRANCH_GAMMA = 0.2  # with 1, activations double every few blocks and leave the range of float16
_PROBE_S, _STALL_S = 5.0, 20.0
_NAMES = "a model is a name of torchvision (resnet50) or timm (timm/resnet50), or path/file.py:Class"
_HUB = "https://huggingface.co"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A network in evaluation mode, and what is known of it."""

    module: nn.Module
    source: Mapping[str, str]
    """model, library, weights, preprocessing (JSON), and classes (JSON) where they are known."""
    preprocessing: Preprocessing
    note: str = ""
    """Why the weights are not the pretrained ones, where that was not asked for."""


def open_model(name: str, *, seed: int, pretrained: bool = True) -> NamedModel:
    """The network of that name. Random weights come from `seed`; `condition_random` makes them usable.

    Raises InputError; UnknownName with near misses.
    """
    check_name(name)
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path).expanduser(), attribute, name, seed)
    if name.startswith("timm/"):
        return _from_timm(name, seed, pretrained)
    return _from_torchvision(name, seed, pretrained)


def check_name(name: str) -> None:
    """InputError unless there is a network of that name, as far as that shows before its code runs."""
    path = name.rpartition(":")[0]
    if name.endswith(".py"):
        raise InputError(f"{name} names no class", f"write {name}:Class")
    if path.endswith(".py"):
        if not Path(path).expanduser().is_file():
            raise InputError(f"there is no file {path}", "a network of your own is path/file.py:Class")
    elif name.startswith("timm/"):
        import timm

        if not timm.is_model(name.removeprefix("timm/")):
            raise UnknownName.among("model", name, (f"timm/{known}" for known in timm.list_models()))
    else:
        from torchvision import models

        known = models.list_models(models)
        if name not in known:
            if Path(name).is_file():
                raise InputError(f"{name} is a file and names no class", _NAMES)
            raise UnknownName.among("model", name, [*known, *_timm_twins(name)], otherwise=_NAMES)


def file_stem(name: str) -> str:
    """How files made from the model are called: timm/resnet50 -> timm-resnet50, net.py:Net -> net."""
    path, _, attribute = name.rpartition(":")
    return attribute.lower() if path.endswith(".py") else name.replace("/", "-")


def condition_random(program: Program) -> None:
    """Sets the last norm of each block's branch to a scale of .2, so that random weights stay in range of float16."""
    for block in program.blocks:
        norms = [op for op in map(program.op, map(program.node, block.branch)) if isinstance(op, BatchNorm)]
        if norms and norms[-1].spec.affine:
            with torch.no_grad():
                norms[-1].weight.fill_(_BRANCH_GAMMA)


def _source(
    name: str, library: str, weights: str, record: Preprocessing, classes: Sequence[str] = ()
) -> dict[str, str]:
    known = {"classes": json.dumps(list(classes))} if classes else {}
    return {"model": name, "library": library, "weights": weights, "preprocessing": record.to_json(), **known}


# ---- torchvision


def _from_torchvision(name: str, seed: int, pretrained: bool) -> NamedModel:
    from torchvision import models

    with _quiet(seed):
        module = models.get_model(name, weights=None).eval()
    weights = models.get_model_weights(name).DEFAULT
    record, classes = _torchvision_record(weights), weights.meta.get("categories", ())
    state, note = _tried(name, weights.name, lambda: _torchvision_state(weights)) if pretrained else (None, "")
    if state is not None:
        module.load_state_dict(state)
    used = RANDOM if state is None else str(weights.name)
    source = _source(name, f"torchvision {version('torchvision')}", used, record, classes)
    return NamedModel(module=module, source=source, preprocessing=record, note=note)


def _torchvision_state(weights: Any) -> dict[str, torch.Tensor]:  # a torchvision WeightsEnum; torchvision is untyped
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(weights.url).path).name
    if not cached.exists():
        _probe(weights.url)
    elif not hashlib.sha256(cached.read_bytes()).hexdigest().startswith(cached.stem.rpartition("-")[2]):
        raise OSError(f"{cached} is damaged, delete it")  # its name ends with the beginning of its hash
    state = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True, map_location="cpu")
    return cast("dict[str, torch.Tensor]", state)


def _torchvision_record(weights: Any) -> Preprocessing:
    preset = weights.transforms()
    crop = preset.crop_size[0]
    return Preprocessing(
        size=(crop, crop),
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


# ---- timm


def _timm_twins(name: str) -> list[str]:
    """What timm calls nearly the same, as names of ours."""
    import difflib

    import timm

    return [f"timm/{near}" for near in difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.8)]


def _from_timm(name: str, seed: int, pretrained: bool) -> NamedModel:
    import timm

    own = name.removeprefix("timm/")
    try:
        config = timm.models.get_pretrained_cfg(own)
    except RuntimeError as error:  # a tag it does not have
        arch = own.partition(".")[0]
        tags = timm.list_models(f"{arch}.*", pretrained=True)
        raise UnknownName.among("model", name, (f"timm/{known}" for known in tags)) from error
    path, note = None, ""
    if pretrained and config is not None and (config.hf_hub_id or config.url):
        path, note = _tried(name, config.tag or "its weights", lambda: _timm_file(config))
    with _quiet(seed):
        overlay = {"file": str(path)} if path else None
        module = timm.create_model(own, pretrained=path is not None, pretrained_cfg_overlay=overlay).eval()
    record = _timm_record(module)
    used = (config.tag or "pretrained") if path is not None and config is not None else RANDOM
    source = _source(name, f"timm {timm.__version__}", used, record, _timm_classes(module))
    return NamedModel(module=module, source=source, preprocessing=record, note=note)


def _timm_file(config: Any) -> Path:  # a timm PretrainedCfg
    if config.hf_hub_id:
        return _hub_file(config.hf_hub_id, [config.hf_hub_filename] if config.hf_hub_filename else _HUB_FILES)
    from timm.models._hub import download_cached_file

    _probe(config.url)
    return Path(download_cached_file(config.url, check_hash=False, progress=sys.stderr.isatty()))


def _hub_file(repository: str, names: Sequence[str]) -> Path:
    """The first of the files that is in the cache; else it is downloaded."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    identity, _, revision = repository.partition("@")
    for name in names:
        try:
            return Path(hf_hub_download(identity, name, revision=revision or None, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    _probe(_HUB)
    for name in names:
        try:
            return Path(hf_hub_download(identity, name, revision=revision or None, etag_timeout=_PROBE_S))
        except EntryNotFoundError as error:
            missing = error
    raise FileNotFoundError(str(missing))


def _timm_record(module: nn.Module) -> Preprocessing:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(module)
    size = config["input_size"][1:]
    interpolation = config["interpolation"]
    return Preprocessing(
        size=tuple(size),
        resize=int(min(size) / config["crop_pct"]),
        mode="squash" if config["crop_mode"] == "squash" else "center",
        interpolation=interpolation if interpolation in ("bilinear", "bicubic", "nearest", "lanczos") else "bilinear",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _timm_classes(module: nn.Module) -> Sequence[str]:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(module)
    return [str(name) for name in ImageNetInfo(subset).label_descriptions()] if subset else ()


# ---- a file of the user's own


def _from_file(path: Path, attribute: str, name: str, seed: int) -> NamedModel:
    with _quiet(seed), _importing_beside(path):
        make = _maker(path, attribute)
        module = _tolerant(f"{attribute}() of {path}", make)
    if not isinstance(module, nn.Module):
        raise InputError(f"{attribute}() of {path} is a {type(module).__name__}", "return a torch.nn.Module")
    record = Preprocessing()
    source = _source(name, str(path), OWN, record)
    return NamedModel(module=module.eval(), source=source, preprocessing=record)


def _maker(path: Path, attribute: str) -> Callable[[], object]:
    found = _tolerant(f"importing {path}", lambda: _imported(path))
    make: Callable[[], object] | None = getattr(found, attribute, None)
    if not callable(make):
        own = (name for name, value in vars(found).items() if getattr(value, "__module__", "") == found.__name__)
        names = sorted(name for name in own if callable(vars(found)[name]))
        if not names:
            raise InputError(f"{path} has no class {attribute!r}", "write a torch.nn.Module class in it")
        raise UnknownName.among(f"class in {path}", attribute, names)
    needed = _needed_arguments(make)
    if needed:
        step = "give them defaults, or name a function without arguments that makes the network"
        raise InputError(f"{attribute} of {path} needs {', '.join(needed)}", step)
    return make


def _imported(path: Path) -> ModuleType:
    name = f"laudc_model_{path.stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _needed_arguments(make: Callable[..., object]) -> list[str]:
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # a builtin says nothing
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in variadic]


def _tolerant(what: str, work: Callable[[], Any]) -> Any:
    """The result of a stranger's code; whatever it raises becomes one line."""
    try:
        return work()
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise InputError(f"{what} raises {said}", "make it work in Python first") from error


@contextmanager
def _importing_beside(path: Path) -> Iterator[None]:
    """The file may import its neighbours, as a script may."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


# ---- what they share


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """Weights drawn from `seed`, the global generator left as it was, no warnings of the libraries."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(seed)
        yield


def _tried(name: str, weights: str, fetch: Callable[[], Any]) -> tuple[Any, str]:
    """What `fetch` brings, or None and a sentence that says why not."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL_S)
    try:
        with warnings.catch_warnings(action="ignore"):
            return fetch(), ""
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: torch's, of a hash that does not match
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return None, f"the pretrained weights of {name} ({weights}) cannot be had: {why}; going on with random ones"
    finally:
        socket.setdefaulttimeout(before)


def _probe(url: str) -> None:
    """OSError, within seconds, unless the place answers: a library may retry for minutes, a resolver hang for one."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PROBE_S):
                answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except (OSError, HTTPException):
            answers.append(False)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PROBE_S)
    if answers != [True]:
        raise ConnectionError(f"no connection to {urlsplit(url).hostname}")
