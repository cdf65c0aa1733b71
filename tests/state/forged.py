"""Forged: bundles made to do harm, each under digests that hold, so that these refuse none of them."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from state.bundle import write_bundle
from state.tensor_files import Stored, header_of

Change = Callable[["Forged"], object]


class Evil:
    """Runs a command as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


class Forged:
    """A directory whose files and manifest are whatever one likes, with digests that hold."""

    def __init__(self, path: Path, files: dict[str, bytes]) -> None:
        path.mkdir()
        for name, content in files.items():
            (path / name).write_bytes(content)
        self.path = path
        self.manifest: dict[str, Any] = json.loads(files["manifest.json"])
        del self.manifest["sha256"]
        self.entry = self.manifest["tensors"]["model"]["w"]

    def file(self, name: str, content: bytes) -> None:
        """Put a file there, and its digest into the manifest."""
        (self.path / name).write_bytes(content)
        self.manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def seal(self, text: bytes | None = None) -> None:
        """Write the manifest, or another text, under a digest that holds."""
        rest = json.dumps(self.manifest, separators=(",", ":")).encode() + b"\n" if text is None else text
        rest = rest[1:]
        digest = hashlib.sha256(rest).hexdigest().encode()
        (self.path / "manifest.json").write_bytes(b'{"sha256":"' + digest + b'",' + rest)


def names() -> Iterator[tuple[str, Change]]:
    """Files, groups and documents by names that lead elsewhere."""
    led = ["../outside", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", "\u202e", "..", ".", "", "~", "C:x", ".hidden"]
    for number, name in enumerate(led):

        def as_file(forged: Forged, name: str = name) -> None:
            forged.manifest["files"][name] = state(forged)

        def as_document(forged: Forged, name: str = name) -> None:
            forged.manifest["files"][f"{name}.json"] = state(forged)

        def as_group(forged: Forged, name: str = name) -> None:
            forged.manifest["tensors"][name] = {}
            size = len(header_of({}))
            forged.manifest["files"][f"{name}.safetensors"] = {"size": size, "sha256": "0" * 64}

        yield f"file name {number}", as_file
        yield f"document name {number}", as_document
        yield f"group name {number}", as_group


def entries() -> Iterator[tuple[str, Change]]:
    """Tensors that are not what the file holds, cannot be, or would take all memory."""
    changes: dict[str, dict[str, Any]] = {
        "dtype of a command": {"dtype": "os.system"},
        "dtype of a class": {"dtype": "Tensor"},
        "dtype of another size": {"dtype": "float64"},
        "dtype of the same size": {"dtype": "int32"},
        "shape turned": {"shape": [4]},
        "shape of another size": {"shape": [2, 3]},
        "shape giant": {"shape": [2**40, 2**22]},
        "shape giant and empty": {"shape": [0, 2**62, 2**62]},
        "shape of big numbers": {"shape": [{"$int": "0x" + "f" * 10_000}] * 64},
        "shape negative": {"shape": [-2, -2]},
        "shape of floats": {"shape": [2.0, 2]},
        "shape of bools": {"shape": [True, 4]},
        "shape of text": {"shape": "22"},
        "shape of a thousand": {"shape": [2, 2, *[1] * 1000]},
        "shape missing": {"shape": None},
        "crc of text": {"crc32": "0"},
        "crc negative": {"crc32": -1},
        "crc of another": {"crc32": 1},
        "more in it": {"class": "os.system"},
    }
    for name, change in changes.items():
        yield name, lambda forged, change=change: forged.entry.update(change)
    aliases: dict[str, dict[str, Any]] = {
        "alias of itself": {"a": {"alias": "a"}},
        "alias in a circle": {"a": {"alias": "b"}, "b": {"alias": "a"}},
        "alias of an alias": {"a": {"alias": "w"}, "b": {"alias": "a"}},
        "alias of nothing": {"a": {"alias": "../w"}},
        "alias and tensor": {"a": {"alias": "w", "dtype": "float32", "shape": [2, 2], "crc32": 0}},
        "name of the header": {"__metadata__": {"dtype": "float32", "shape": [], "crc32": 0}},
    }
    for name, added in aliases.items():
        yield name, lambda forged, added=added: forged.manifest["tensors"]["model"].update(added)


def state(forged: Forged) -> Any:
    """What the manifest lists of a document."""
    return forged.manifest["files"]["state.json"]


def manifests() -> Iterator[tuple[str, Change]]:
    """Manifests of another form."""
    for name, value in {"2": 2, "0": 0, "-1": -1, "text": "1", "true": True, "float": 1.0, "none": None}.items():
        yield f"format {name}", lambda forged, value=value: forged.manifest.update(format=value)
    for field in ("format", "files", "tensors"):
        yield f"no {field}", lambda forged, field=field: forged.manifest.pop(field)
        yield f"{field} as a list", lambda forged, field=field: forged.manifest.update({field: []})
    for size in (2**62, 2**64, -1, 1.5, True, None):
        yield (
            f"size {size}",
            lambda forged, size=size: state(forged).update(size=size),
        )
    for group in ("state.json", "manifest.json"):
        yield f"tensors of {group}", lambda forged, group=group: forged.manifest["tensors"].update({group: {}})
    yield "the manifest in itself", lambda forged: forged.manifest["files"].update({"manifest.json": state(forged)})
    yield "more fields", lambda forged: forged.manifest.update(factory="os.system")
    yield "file without tensors", lambda forged: forged.file("ema.safetensors", header_of({}))
    yield "document as tensors", lambda forged: forged.manifest["tensors"].update({"state": {}})


TEXTS = {
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep mappings": b'{"a":' * 100_000 + b"0" + b"}" * 100_000,
    "a hundred and one deep": b"[" * 101 + b"]" * 101 + b"\n",
    "many digits": b"1" * 100_000 + b"\n",
    "many digits of a float": b"0." + b"1" * 100_000 + b"\n",
    "a float beyond all": b"1e999\n",
    "nan": b"NaN\n",
    "infinity": b"[-Infinity]\n",
    "a name twice": b'{"epoch":1,"epoch":2}\n',
    "spaces": b'{"epoch": 1}\n',
    "another end": b'{"epoch":1}',
    "two values": b"1\n2\n",
    "half of a pair": b'"\\ud83d"\n',
    "no escapes": '"\u00e9"\n'.encode(),
    "another encoding": '{"epoch":1}\n'.encode("utf-16"),
    "a mark in front": b"\xef\xbb\xbf1\n",
    "no text": b"\xff\xfe\xfd\n",
    "nothing": b"",
    "zeros": bytes(1000),
    "float of no bytes": b'{"$float":"7f"}\n',
    "float of a finite number": b'{"$float":"3ff0000000000000"}\n',
    "float of a list": b'{"$float":[1]}\n',
    "int of words": b'{"$int":"0xfoo"}\n',
    "int of few bits": b'{"$int":"0x1"}\n',
    "int of a number": b'{"$int":1}\n',
    "dict of a list": b'{"$dict":[]}\n',
    "dict without need": b'{"$dict":{"a":1}}\n',
    "another mark": b'{"$class":"os.system"}\n',
}


def texts() -> Iterator[tuple[str, Change]]:
    """Documents, and manifests, that are not JSON of ours."""
    for name, text in TEXTS.items():
        yield f"document: {name}", lambda forged, text=text: forged.file("state.json", text)
        yield (
            f"manifest: {name}",
            lambda forged, text=text: forged.seal(b'{"format":' + text.strip() + b',"files":{}}\n'),
        )
    yield "manifest: a value", lambda forged: forged.seal(b'{"$int":"0x10000000000000000"}\n')
    yield "manifest: no bytes", lambda forged: (forged.path / "manifest.json").write_bytes(b"")
    yield "manifest: seventy megabytes", lambda forged: os.truncate(forged.path / "manifest.json", 70 * 2**20)
    yield "document: seventy megabytes", seventy


def seventy(forged: Forged) -> None:
    os.truncate(forged.path / "state.json", 70 * 2**20)
    state(forged)["size"] = 70 * 2**20


def headers() -> Iterator[tuple[str, Change]]:
    """Files of tensors with another header, of the size that the manifest lists."""
    for length in (0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1):

        def long(forged: Forged, length: int = length) -> None:
            content = (forged.path / "model.safetensors").read_bytes()
            forged.file("model.safetensors", length.to_bytes(8, "little") + content[8:])

        yield f"header of {length} bytes", long

    def other(old: bytes, new: bytes) -> Change:
        def replaced(forged: Forged) -> None:
            content = (forged.path / "model.safetensors").read_bytes()
            assert old in content and len(old) == len(new)
            forged.file("model.safetensors", content.replace(old, new))

        return replaced

    def unmade(forged: Forged) -> None:
        entry = Stored("float32", (0, 2**62, 2**62))
        forged.file("model.safetensors", header_of({"w": entry}))
        forged.manifest["tensors"]["model"] = {"w": entry._asdict()}

    yield "a shape that no tensor has", unmade
    yield "offsets swapped", other(b"[0,16]", b"[16,0]")
    yield "offsets that overlap", other(b"[16,32]", b"[00,16]")
    yield "another dtype", other(b"F32", b"I32")
    yield "another name", other(b'"w"', b'"v"')
    yield "another format", other(b'"pt"', b'"tf"')


def pickles(evil: bytes) -> Iterator[tuple[str, Change]]:
    """A pickle under each name, and beside them."""
    yield "pickle as document", lambda forged: forged.file("state.json", evil)
    yield "pickle as tensors", lambda forged: forged.file("model.safetensors", evil)
    yield "pickle as manifest", lambda forged: (forged.path / "manifest.json").write_bytes(evil)
    for name in ("model.pt", "data.pkl", ".metadata", "__init__.py", "sitecustomize.py"):
        yield f"{name} beside", lambda forged, name=name: (forged.path / name).write_bytes(evil)
        yield f"{name} listed", lambda forged, name=name: forged.file(name, evil)

    def sized(forged: Forged) -> None:
        """The header says bytes, and the bytes are a pickle: nothing is wrong with that, nobody unpickles it."""
        padded = evil + bytes(-len(evil) % 4)
        entry = Stored("float32", (len(padded) // 4,), zlib.crc32(padded))
        forged.file("model.safetensors", header_of({"w": entry}) + padded)
        forged.manifest["tensors"]["model"] = {"w": entry._asdict()}

    yield "accepted: pickle as the numbers of a tensor", sized


def links() -> Iterator[tuple[str, Change]]:
    """Something else where a file has to be."""
    for name in ("manifest.json", "state.json", "model.safetensors"):
        for kind in ("/etc/passwd", "/etc", "/dev/zero", "../outside", ".", "nowhere", "pipe", "directory"):

            def instead(forged: Forged, name: str = name, kind: str = kind) -> None:
                (forged.path / name).unlink()
                make = {"pipe": lambda at: os.mkfifo(at), "directory": lambda at: at.mkdir()}
                make.get(kind, lambda at: at.symlink_to(kind))(forged.path / name)

            yield f"{kind.replace('/', '|')} for {name}", instead
    yield "link beside", lambda forged: (forged.path / "link").symlink_to("/etc")


def build(folder: Path, evil: bytes) -> list[str]:
    """All cases below a folder, where `evil` is the pickle; return their names."""
    write_bundle(folder / "whole", {"model": {"w": torch.ones(2, 2), "v": torch.ones(2, 2)}}, {"state": {"epoch": 1}})
    whole = {path.name: path.read_bytes() for path in (folder / "whole").iterdir()}
    made = ["accepted: whole"]
    (folder / "whole").rename(folder / made[0])
    for source in (names(), entries(), manifests(), texts(), headers(), pickles(evil), links()):
        for name, change in source:
            forged = Forged(folder / name, whole)
            change(forged)
            manifest = forged.path / "manifest.json"
            if manifest.is_file() and not manifest.is_symlink() and manifest.read_bytes() == whole["manifest.json"]:
                forged.seal()
            made.append(name)
    return made
