"""Bundle: groups of named tensors and JSON documents as one directory, complete and verified, or refused."""

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from state.commit import committed
from state.digested import DigestedFile, write_file
from state.documents import text_of, value_of
from state.errors import CheckpointDamaged, CheckpointError
from state.manifest import FILE, Manifest, file_of, is_name, read_manifest
from state.tensor_files import Fault, Stored, describe, identity, read_tensors, write_tensors

_NOT_AS_WRITTEN = {errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EIO}


@dataclass
class Bundle:
    """What a directory holds.

    Attributes:
        tensors: by group and name, on the CPU and contiguous, in the order they were given.
        documents: by name.
    """

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)


def write_bundle(path: Path, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]) -> None:
    """Write tensors and documents as a directory that is at `path` complete and durable, or not at all.

    Each group becomes `<group>.safetensors`, each document `<name>.json`; `manifest.json` lists all with their
    SHA-256. Names of one tensor within a group are stored once and are one tensor again when read; other views are
    stored each by itself. Dense tensors of any device keep every bit; strides, `requires_grad` and the device are
    not stored.

    Args:
        path: must not exist yet; its parent must.
        tensors: for each group, tensors by name. Nobody may change them meanwhile.
        documents: plain values by name, as `text_of` has them. Long rows of numbers are better off as tensors.

    Raises:
        CheckpointError: a name, a tensor or a value cannot be stored, `path` exists, or the disk refused. Nothing has
            been left at `path`; only after the very last sync failed, a complete checkpoint is.
    """
    path = Path(path)
    texts, entries = _checked(path, tensors, documents)
    try:
        with committed(path) as folder:
            files = {}
            for group, named in tensors.items():
                kept = {name: named[name] for name, entry in entries[group].items() if isinstance(entry, Stored)}
                files[file_of(group)], stored = write_tensors(folder / file_of(group), kept)
                entries[group].update(stored)
            for name, text in texts.items():
                files[f"{name}.json"] = write_file(folder / f"{name}.json", [text])[0]
            write_file(folder / FILE, [Manifest(files, entries).sealed()])
    except ValueError as error:
        raise CheckpointError(path, f"cannot be written: {FILE}: {error}.") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be written: {_told(error)}. Earlier checkpoints are untouched.") from error


def read_bundle(path: Path) -> Bundle:
    """Read a directory that `write_bundle` made, after every byte of it has been verified.

    Nothing but the listed files is opened, each once; no link is followed, no code is run or looked up by name.

    Raises:
        CheckpointDamaged: it is not as it was written; the message names the file, and the entry where it is known.
        CheckpointError: there is none, or the system does not let it be read.
    """
    path = Path(path)
    manifest = _manifest(path)
    contents: dict[str, Any] = {}
    for file, content, faults in _contents(path, manifest):
        if faults:
            raise faults[0]
        contents[file] = content
    tensors = {group: contents.pop(file) for file, group in manifest.groups.items()}
    return Bundle(tensors, {file.removesuffix(".json"): content for file, content in contents.items()})


def verify_bundle(path: Path) -> list[str]:
    """All that is wrong with a directory that `write_bundle` made: one message each, none if it is whole."""
    try:
        found = _contents(Path(path), _manifest(Path(path)))
        return [str(fault) for _, _, faults in found for fault in faults]
    except CheckpointError as error:
        return [str(error)]


def _checked(
    path: Path, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, dict[str, Stored | str]]]:
    """The texts of the documents, and what will be stored of the tensors: all refusals before the first byte."""
    where = "names"
    try:
        for name in [*tensors, *documents]:
            if not is_name(name) or (name in documents and f"{name}.json" == FILE):
                allowed = "letters, digits, '.', '_' and '-', no dot in front, and no document 'manifest'"
                raise ValueError(f"{name!r} may not be the name of a file; allowed are {allowed}")
        entries: dict[str, dict[str, Stored | str]] = {}
        for group, named in tensors.items():
            where = file_of(group)
            text_of(list(named))  # names are text as well
            first: dict[object, str] = {}
            entries[group] = {}
            for name, tensor in named.items():
                where = f"{file_of(group)}, entry {name!r}"
                if name == "__metadata__":
                    raise ValueError("the format keeps this name for itself")
                entry, kept = describe(tensor), first.setdefault(identity(tensor), name)
                entries[group][name] = entry if kept == name else kept
        texts = {}
        for name, value in documents.items():
            where = f"{name}.json"
            texts[name] = text_of(value)
    except ValueError as error:
        raise CheckpointError(path, f"cannot be written: {where}: {error}.") from None
    return texts, entries


def _manifest(path: Path) -> Manifest:
    try:
        return read_manifest(path)
    except OSError as error:
        raise _unreadable(path, FILE, error) from error


def _contents(path: Path, manifest: Manifest) -> Iterator[tuple[str, Any, list[CheckpointError]]]:
    """The name, the content and the faults of each file that is listed or there."""
    damaged = partial(CheckpointDamaged, path)
    try:
        with os.scandir(path) as found:
            present = {entry.name: entry.is_file(follow_symlinks=False) for entry in found}
    except OSError as error:
        raise _unreadable(path, None, error) from error
    for file in sorted(present.keys() - {FILE, *manifest.files}):
        yield file, None, [damaged(file, None, f"it is there, and {FILE} does not list it")]
    for file in manifest.files:
        if not present.get(file):
            reason = "it is a link, a directory or a device" if file in present else "it is missing"
            yield file, None, [damaged(file, None, f"{reason}, and {FILE} lists it as a file")]
            continue
        try:
            content, faults = _content(path / file, manifest)
        except OSError as error:
            yield file, None, [_unreadable(path, file, error)]
        else:
            yield file, content, [damaged(file, entry, reason) for entry, reason in faults]


def _content(path: Path, manifest: Manifest) -> tuple[Any, list[Fault]]:
    """The tensors or the value of a file, and what is wrong with it."""
    told, group = manifest.files[path.name], manifest.groups.get(path.name)
    stored: dict[str, Tensor] = {}
    faults: list[Fault] = []
    try:
        with DigestedFile(path) as file:
            if file.size != told.size:
                return None, [(None, f"it has {file.size} bytes, {FILE} says {told.size}")]
            if group is not None:
                stored, faults = read_tensors(file, manifest.stored(group))
            text = file.take(file.size) if group is None else b""
            if not faults and file.sha256 != told.sha256:
                faults = [(None, f"its content has the SHA-256 {file.sha256}, {FILE} says {told.sha256}")]
        if faults:
            return None, faults
        if group is None:
            return value_of(text), []
    except ValueError as error:
        return None, [(None, str(error))]
    named = manifest.tensors[group]
    return {name: stored[entry if isinstance(entry, str) else name] for name, entry in named.items()}, []


def _unreadable(path: Path, file: str | None, error: OSError) -> CheckpointError:
    """What it means that the system did not let a file be read."""
    if not path.is_dir():
        return CheckpointError(path, "cannot be read: there is no such directory.")
    if error.errno in _NOT_AS_WRITTEN:
        told = {errno.ENOENT: "it is missing", errno.ELOOP: "it is a link"}.get(error.errno, str(error.strerror))
        return CheckpointDamaged(path, file, None, told)
    return CheckpointError(path, f"cannot be read: {file or 'the directory'}: {error.strerror}.")


def _told(error: OSError) -> str:
    """The file and the reason, without the temporary directory that is no more."""
    name = f"{Path(error.filename).name}: " if error.filename else ""
    return f"{name}{error.strerror}" if error.strerror else str(error)
