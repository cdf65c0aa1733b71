"""The manifest: what a checkpoint directory holds, under a seal of its own."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from state.digested import Digest, DigestedFile
from state.documents import MAX_BYTES, text_of, value_of
from state.errors import CheckpointDamaged, CheckpointError
from state.tensor_files import DTYPES, MAX_DIMENSIONS, MAX_HEADER, Fault, Stored, header_of

FILE = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_SEAL = re.compile(rb'\{"sha256":"([0-9a-f]{64})",')

Length = Annotated[int, Field(ge=0, lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _File(_Strict):
    size: Length
    sha256: Annotated[str, Field(min_length=64, max_length=64)]


class _Tensor(_Strict):
    dtype: str
    shape: Annotated[list[Length], Field(max_length=MAX_DIMENSIONS)]
    crc32: Annotated[int, Field(ge=0, lt=2**32)]


class _Alias(_Strict):
    alias: str


class _Manifest(_Strict):
    format: int
    files: dict[str, _File]
    tensors: dict[str, dict[str, _Tensor | _Alias]]


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint directory holds, beside the manifest itself.

    Attributes:
        files: size and SHA-256 of each file.
        tensors: for each group, and each name in it, the tensor that is stored, or the name of the one it is.
    """

    files: Mapping[str, Digest]
    tensors: Mapping[str, Mapping[str, Stored | str]]

    @property
    def groups(self) -> dict[str, str]:
        """The group of each file of tensors."""
        return {file_of(group): group for group in self.tensors}

    def stored(self, group: str) -> dict[str, Stored]:
        """The tensors that the file of a group holds."""
        return {name: entry for name, entry in self.tensors[group].items() if isinstance(entry, Stored)}

    def sealed(self) -> bytes:
        """The text of the manifest: its first entry is the SHA-256 of all that follows that entry."""
        tensors = {
            group: {
                name: {"alias": entry} if isinstance(entry, str) else entry._asdict() | {"shape": list(entry.shape)}
                for name, entry in named.items()
            }
            for group, named in self.tensors.items()
        }
        files = {name: digest._asdict() for name, digest in self.files.items()}
        rest = text_of({"format": FORMAT, "files": files, "tensors": tensors})[1:]
        return b'{"sha256":"' + hashlib.sha256(rest).hexdigest().encode() + b'",' + rest

    def faults(self) -> Iterator[Fault]:
        """What no checkpoint has, and what contradicts itself. Each fault rests on there being none before it."""
        for file, digest in self.files.items():
            group = self.groups.get(file)
            name = file.removesuffix(".json") if group is None else group
            if name == file or not is_name(name) or file == FILE:
                yield file, "no file of a checkpoint has this name"
            if group is None and digest.size > MAX_BYTES:
                yield file, f"it has {digest.size} bytes; at most {MAX_BYTES} are allowed"
        for file, group in self.groups.items():
            if file not in self.files:
                yield file, "it has tensors, and is not among the files"
            for name, entry in self.tensors[group].items():
                if name == "__metadata__":
                    yield f"{group}/{name}", "no tensor has this name"
                elif isinstance(entry, Stored) and entry.dtype not in DTYPES:
                    yield f"{group}/{name}", f"the dtype {entry.dtype!r} is unknown"
                elif isinstance(entry, str) and not isinstance(self.tensors[group].get(entry), Stored):
                    yield f"{group}/{name}", f"it is the same tensor as {entry!r}, which is not stored"
            stored = self.stored(group)
            header = len(header_of(stored))
            size = header + sum(entry.size for entry in stored.values())
            if size != self.files[file].size:
                yield file, f"it has {self.files[file].size} bytes, its tensors take {size}"
            if header > MAX_HEADER:
                yield file, f"its header has {header} bytes; at most {MAX_HEADER} are allowed"


def read_manifest(path: Path) -> Manifest:
    """The manifest of a directory, if its seal holds and it can be one of ours.

    Raises:
        CheckpointDamaged: it is not as it was written.
        CheckpointError: it is of another format.
        OSError: it cannot be read.
    """
    damaged = partial(CheckpointDamaged, path, FILE)
    try:
        with DigestedFile(path / FILE) as file:
            if file.size > MAX_BYTES:
                raise ValueError(f"it has {file.size} bytes; at most {MAX_BYTES} are allowed")
            value = _unsealed(file.take(file.size))
        number = value.get("format") if isinstance(value, dict) else None
        if isinstance(number, int) and number != FORMAT:
            wanted = f"this version of the library reads {FORMAT}. Use the version that wrote it, or a later one"
            raise CheckpointError(path, f"cannot be read: it is of format {number}, and {wanted}.")
        listed = _Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = [str(part) for part in first["loc"] if part not in (_Tensor.__name__, _Alias.__name__)]
        raise damaged("/".join(place) or None, first["msg"]) from None
    except ValueError as error:
        raise damaged(None, str(error)) from None
    manifest = Manifest(
        {name: Digest(file.size, file.sha256) for name, file in listed.files.items()},
        {group: {name: _entry(entry) for name, entry in named.items()} for group, named in listed.tensors.items()},
    )
    for entry, reason in manifest.faults():
        raise damaged(entry, reason)
    return manifest


def file_of(group: str) -> str:
    """The file of a group of tensors."""
    return f"{group}.safetensors"


def is_name(name: str) -> bool:
    """Whether a group or a document may have this name: letters, digits, `.`, `_`, `-`, and no dot in front."""
    return _NAME.fullmatch(name) is not None


def _unsealed(text: bytes) -> Any:
    seal = _SEAL.match(text)
    if seal is None:
        raise ValueError('it has to begin with its own digest, {"sha256":"..."')
    rest = text[seal.end() :]
    found, told = hashlib.sha256(rest).hexdigest(), seal[1].decode()
    if found != told:
        raise ValueError(f"it begins with the SHA-256 {told}, what follows has {found}")
    return value_of(b"{" + rest)


def _entry(entry: _Tensor | _Alias) -> Stored | str:
    return entry.alias if isinstance(entry, _Alias) else Stored(entry.dtype, tuple(entry.shape), entry.crc32)
