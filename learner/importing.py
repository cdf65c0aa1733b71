"""Importing: weights out of a file that `torch.save` wrote elsewhere, without running anything that it holds."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learner.errors import ArgumentError, NoWeights
from state.errors import nearest, short, suggestion
from state.tensor_files import describe, write_tensors

_WHO = "import"


@dataclass(frozen=True)
class Weights:
    """Weights of another program.

    Attributes:
        tensors: by name, as `load_state_dict` takes them.
        left_out: what else the file holds, by path: "epoch", "optimizer".
    """

    tensors: dict[str, Tensor]
    left_out: list[str]


def read_weights(path: Path, key: str = "", strip: str = "") -> Weights:
    """The weights in a file of `torch.save`, by `torch.load(weights_only=True)` alone.

    Args:
        key: where they are in it, "state_dict" or "ema.model"; "" for the file as a whole.
        strip: what is taken off the begin of each name, such as "module.".

    Raises:
        NoWeights: it is damaged, wants code to be run, or is no file of `torch.save`.
        ArgumentError: the weights are not at `key`; the message says what is in the file.
        OSError: it cannot be read.
    """
    found = _loaded(path)
    held: Any = found
    for name in key.split(".") if key else ():
        if not isinstance(held, Mapping) or name not in held:
            near = suggestion(nearest(name, map(str, held))) if isinstance(held, Mapping) else ""
            raise ArgumentError(_WHO, "key", f"{str(path)!r} has no {key!r}.{near}\n{_contents(found)}")
        held = held[name]
    tensors = _tensors(held)
    if not tensors:
        raise ArgumentError(_WHO, "key", _told(path, found, key))
    others = [name for name in held if name not in tensors] if isinstance(held, Mapping) else []
    left_out = [f"{key}.{name}" if key else str(name) for name in others]
    if key and isinstance(found, Mapping):
        left_out += [str(name) for name in found if name != key.partition(".")[0]]
    return Weights(_stripped(tensors, strip), left_out)


def write_weights(path: Path, weights: Weights) -> int:
    """Write weights as a new safetensors file; return its size in bytes.

    Raises:
        ArgumentError: a tensor is of a kind that the format does not have.
        OSError: the file exists, or the disk refused; nothing is left then.
    """
    for name, tensor in weights.tensors.items():
        try:
            describe(tensor)
            if tensor.dtype in (torch.complex32, torch.complex128):
                raise ValueError(f"safetensors has no {tensor.dtype}")
        except ValueError as error:
            raise ArgumentError(_WHO, "OUT", f"{name!r} cannot be written: {error}.") from None
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{str(path)!r} exists, and nothing is written over it")
    try:
        return write_tensors(path, weights.tensors)[0].size
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def shared_prefix(names: Mapping[str, Tensor]) -> str:
    """What all names begin with, up to a dot, where a wrapper has put it: "module.", "model."; "" if there is none."""
    firsts = {name.partition(".")[0] for name in names}
    return f"{firsts.pop()}." if len(firsts) == 1 and all("." in name for name in names) else ""


def _loaded(path: Path) -> Any:
    with path.open("rb") as file:
        begin = file.read(16)
    if begin[8:10] in (b'{"', b"{ ") or path.suffix == ".safetensors":
        raise NoWeights(path, "is a safetensors file already: safetensors.torch.load_file reads it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old ways to save; what matters is told by an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = sorted(set(re.findall(r"(?:GLOBAL|Unsupported class|instruction:) ?`?([\w.]+\.\w+)", str(error))))
        if not named and not zipfile.is_zipfile(path):
            raise NoWeights(path, "cannot be read: it is damaged, or no file of torch.save.") from None
        what = f"calls for {', '.join(named)}" if named else "holds more than tensors and plain values"
        remedy = "In the program that made it, and that you trust, save model.state_dict() alone."
        raise NoWeights(path, f"{what}: reading that would run code, so nothing was read. {remedy}") from None
    except Exception as error:  # torch.load raises many kinds for a file that is damaged
        told = f"{type(error).__name__}: {str(error).partition('. ')[0].partition(chr(10))[0]}"
        raise NoWeights(path, f"cannot be read: it is damaged, or no file of torch.save ({told}).") from None


def _tensors(held: Any) -> dict[str, Tensor]:
    """The tensors of a mapping, by name; none if other mappings are in it, which may be the weights."""
    if not isinstance(held, Mapping) or any(_tensors(each) for each in held.values() if isinstance(each, Mapping)):
        return {}
    return {name: each.detach() for name, each in held.items() if isinstance(name, str) and isinstance(each, Tensor)}


def _stripped(tensors: dict[str, Tensor], strip: str) -> dict[str, Tensor]:
    others = [name for name in tensors if not name.startswith(strip)]
    if others:
        told = f"{len(others)} of {len(tensors)} names do not begin with {strip!r}, such as {others[0]!r}."
        raise ArgumentError(_WHO, "strip", told)
    return {name.removeprefix(strip): tensor for name, tensor in tensors.items()}


def _told(path: Path, found: Any, key: str) -> str:
    paths = list(_places(found, ""))
    where = f"{str(path)!r} holds no weights{f' at {key!r}' if key else ' at its top'}."
    remedy = f" Say --key {paths[0]}." if paths else " Its tensors stand in no mapping by name."
    return f"{where}{remedy}\n{_contents(found)}"


def _places(found: Any, path: str) -> list[str]:
    """Where there are weights."""
    if not isinstance(found, Mapping):
        return []
    below = [place for name, each in found.items() for place in _places(each, f"{path}.{name}".removeprefix("."))]
    return [path, *below] if _tensors(found) else below


def _contents(found: Any) -> str:
    """What is in a file, one line for each key."""
    if not isinstance(found, Mapping):
        return f"It holds {_kind(found)}."
    more = [f"  ... and {len(found) - 20} more"] if len(found) > 20 else []
    lines = [f"  {name}: {_kind(each)}" for name, each in list(found.items())[:20]]
    return "\n".join(["It holds:", *lines, *more])


def _kind(value: Any) -> str:
    if not isinstance(value, Mapping):
        return short(value)
    tensors = _tensors(value)
    return f"{len(tensors)} tensors by name" if tensors else f"a mapping of {[str(name) for name in value][:6]}"
