"""Tensor files: named tensors in the safetensors format, streamed to disk and back without a copy of the whole.

The format is 8 bytes of length, a JSON header, and the bytes of the tensors: see
https://huggingface.co/docs/safetensors. The header is never parsed here: a file has to begin with exactly the one that
follows from what the manifest lists.
"""

import ctypes
import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from state.digested import Digest, DigestedFile, write_file

Fault = tuple[str | None, str]  # the entry, where it is known, and what is wrong with it
MAX_HEADER = 100_000_000  # bytes; the safetensors package refuses more
MAX_DIMENSIONS = 64
_NATIVE = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
_AS_BYTES = ("complex32", "complex128", "float4_e2m1fn_x2")  # what the format has no word for: one more dimension, U8
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in (*_NATIVE, *_AS_BYTES) if hasattr(torch, name)}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Stored(NamedTuple):
    """What the manifest keeps of one tensor: the name of its dtype, its shape, the CRC-32 of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    crc32: int = 0

    @property
    def size(self) -> int:
        """Its bytes."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def describe(tensor: Tensor) -> Stored:
    """What will be stored of a tensor, its CRC-32 still open.

    Raises:
        ValueError: it is sparse, quantized, without data, or of a dtype that cannot be stored.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else str(tensor.layout)
        raise ValueError(f"it is a {kind} tensor; only dense ones can be stored")
    if tensor.dim() > MAX_DIMENSIONS:
        raise ValueError(f"it has {tensor.dim()} dimensions; at most {MAX_DIMENSIONS} can be stored")
    if tensor.dtype not in _NAMES:
        raise ValueError(f"it is of dtype {tensor.dtype}; known are {', '.join(DTYPES)}")
    return Stored(_NAMES[tensor.dtype], tuple(tensor.shape))


def header_of(entries: Mapping[str, Stored]) -> bytes:
    """The begin of a file with these tensors, the length included."""
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in _order(entries):
        entry = entries[name]
        native = _NATIVE.get(entry.dtype)
        shape = list(entry.shape) if native else [*entry.shape, DTYPES[entry.dtype].itemsize]
        fields[name] = {"dtype": native or "U8", "shape": shape, "data_offsets": [begin, begin + entry.size]}
        begin += entry.size
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[Digest, dict[str, Stored]]:
    """Write a new file; return what it is known by, and each of its tensors.

    A tensor of another device is fetched when its turn comes.

    Raises:
        OSError: a call to the system failed.
    """
    entries = {name: describe(tensor) for name, tensor in tensors.items()}
    digest, (_, *crcs) = write_file(path, _blocks(tensors, entries))
    for name, crc32 in zip(_order(entries), crcs, strict=True):
        entries[name] = entries[name]._replace(crc32=crc32)
    return digest, entries


def read_tensors(file: DigestedFile, entries: Mapping[str, Stored]) -> tuple[dict[str, Tensor], list[Fault]]:
    """Read a file of the right size: its tensors on the CPU, and what is damaged.

    Raises:
        ValueError: the file has become shorter.
    """
    expected = header_of(entries)
    found = file.take(len(expected))
    if found != expected:
        return {}, [_difference(found, expected, entries)]
    tensors: dict[str, Tensor] = {}
    faults: list[Fault] = []
    for name in _order(entries):
        entry = entries[name]
        try:
            tensors[name] = torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="cpu")
        except RuntimeError:  # more memory than there is, or a shape that only a forged manifest has
            return {}, [*faults, (name, f"no tensor of the shape {list(entry.shape)} can be made here")]
        crc32 = file.fill(_memory(tensors[name]))
        if crc32 != entry.crc32:
            faults.append((name, f"its bytes have the CRC-32 {crc32:08x}, the manifest says {entry.crc32:08x}"))
    return {name: tensors[name] for name in entries}, faults


def identity(tensor: Tensor) -> object:
    """What two names of one tensor have in common: equal for equal memory looked at in the same way."""
    if not tensor.numel() or tensor.layout is not torch.strided or tensor.is_meta:
        return id(tensor)
    look = (tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())
    return (tensor.device, tensor.data_ptr(), *look)


def _order(entries: Mapping[str, Stored]) -> list[str]:
    """Names as the file has them: the widest dtypes first, so that each tensor is aligned; then by name."""

    def rank(name: str) -> tuple[int, str]:
        dtype = entries[name].dtype
        return (-DTYPES[dtype].itemsize if dtype in _NATIVE else -1, name)

    return sorted(entries, key=rank)


def _blocks(tensors: Mapping[str, Tensor], entries: Mapping[str, Stored]) -> Iterator[memoryview | bytes]:
    """The content of a file: its header, then each tensor."""
    yield header_of(entries)
    for name in _order(entries):
        yield _memory(tensors[name].detach().resolve_conj().resolve_neg().to("cpu").contiguous())


def _memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, in place. The view keeps the tensor alive."""
    size = tensor.numel() * tensor.itemsize
    if not size:
        return memoryview(b"")
    array = (ctypes.c_char * size).from_address(tensor.data_ptr())
    array.owner = tensor  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


def _difference(found: bytes, expected: bytes, entries: Mapping[str, Stored]) -> tuple[str | None, str]:
    """Where a header leaves what was expected: the entry, and what stands there."""
    place = next(index for index, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    entry, begin = None, 0
    for name in _order(entries):
        begin = expected.index(json.dumps(name).encode("ascii") + b':{"dtype"', begin)
        if begin > place:
            break
        entry = name
    there, wanted = found[place : place + 24], expected[place : place + 24]
    return entry, f"its header differs from what the manifest lists at byte {place}: {there!r}, expected {wanted!r}"
