"""Damaged bundles: whatever is changed in a directory, it is refused with the name of the file."""

import errno
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from state import CheckpointDamaged, CheckpointError
from state.bundle import read_bundle, verify_bundle, write_bundle

Files = dict[str, bytes]


def bundle_at(path: Path, step: int) -> Files:
    """A small bundle of one model and its optimizer, as one of several of a run."""
    torch.manual_seed(step)
    model = {"encoder.weight": torch.randn(4, 4), "encoder.bias": torch.randn(4), "seen": torch.tensor(step)}
    model |= {"head.weight": model["encoder.weight"], "half": torch.randn(3).half(), "empty": torch.zeros(0)}
    moments = {"encoder.weight": torch.randn(4, 4), "encoder.bias": torch.randn(4), "mask": torch.tensor([True, False])}
    state = {"epoch": step, "loss": float("nan"), "rows": [{"lr": 0.1}, {"lr": 0.05}], "name": "a run"}
    write_bundle(
        path, {"model": model, "optimizer": moments}, {"state": state, "loader": {"seed": 2**80, "epoch": step}}
    )
    return {each.name: each.read_bytes() for each in path.iterdir()}


def entry_at(content: bytes, place: int) -> str | None:
    """The tensor whose bytes are at a place of a file of tensors."""
    begin = 8 + int.from_bytes(content[:8], "little")
    for name, about in json.loads(content[8:begin]).items():
        if name != "__metadata__" and begin + about["data_offsets"][0] <= place < begin + about["data_offsets"][1]:
            return str(name)
    return None


class Mutations:
    """Changes of a bundle's files, each drawn with its kind; `other` are the files of a later one of the same run."""

    def __init__(self, files: Files, other: Files, seed: int) -> None:
        self.files, self.other = files, other
        self.draw = random.Random(seed)
        self.kinds: list[Callable[[Files], str | None]] = [
            self.flip_a_bit,
            self.flip_a_bit,
            self.flip_a_bit,
            self.flip_a_bit_of_the_manifest,
            self.flip_several_bits,
            self.set_a_byte,
            self.cut_short,
            self.make_longer,
            self.leave_a_hole,
            self.insert_a_byte,
            self.lose_a_byte,
            self.move_a_piece,
            self.swap_two_files,
            self.copy_a_file_over_another,
            self.lose_a_file,
            self.add_a_file,
            self.rename_a_file,
            self.take_a_file_of_another,
            self.take_a_tensor_of_another_file,
            self.swap_two_tensors,
        ]

    def next(self) -> tuple[str, Files, str | None]:
        """The kind, the files after it, and the entry that the refusal has to name, None for any."""
        kind = self.draw.choice(self.kinds)
        changed = dict(self.files)
        entry = kind(changed)
        return kind.__name__, changed, entry

    def some(self, files: Files) -> str:
        return self.draw.choice(sorted(files))

    def place(self, content: bytes) -> int:
        return self.draw.randrange(len(content))

    def with_bit(self, content: bytes, place: int) -> bytes:
        return content[:place] + bytes([content[place] ^ 1 << self.draw.randrange(8)]) + content[place + 1 :]

    def flip_a_bit(self, files: Files) -> str | None:
        name = self.some(files)
        place = self.place(files[name])
        entry = entry_at(files[name], place) if name.endswith("safetensors") else None
        files[name] = self.with_bit(files[name], place)
        return entry

    def flip_a_bit_of_the_manifest(self, files: Files) -> None:
        files["manifest.json"] = self.with_bit(files["manifest.json"], self.place(files["manifest.json"]))

    def flip_several_bits(self, files: Files) -> None:
        for _ in range(self.draw.randint(2, 20)):
            name = self.some(files)
            files[name] = self.with_bit(files[name], self.place(files[name]))

    def set_a_byte(self, files: Files) -> None:
        name = self.some(files)
        place = self.place(files[name])
        files[name] = files[name][:place] + self.draw.randbytes(1) + files[name][place + 1 :]

    def cut_short(self, files: Files) -> None:
        name = self.some(files)
        files[name] = files[name][: self.place(files[name])]

    def make_longer(self, files: Files) -> None:
        files[self.some(files)] += self.draw.choice([b"\n", b" ", b"\0", self.draw.randbytes(self.draw.randint(1, 99))])

    def leave_a_hole(self, files: Files) -> None:
        name = self.some(files)
        begin, size = self.place(files[name]), self.draw.choice([8, 64, 4096])
        hole = bytes(len(files[name][begin : begin + size]))
        files[name] = files[name][:begin] + hole + files[name][begin + size :]

    def insert_a_byte(self, files: Files) -> None:
        name = self.some(files)
        place = self.place(files[name])
        files[name] = files[name][:place] + self.draw.choice([b" ", b"0", b"\0"]) + files[name][place:]

    def lose_a_byte(self, files: Files) -> None:
        name = self.some(files)
        place = self.place(files[name])
        files[name] = files[name][:place] + files[name][place + 1 :]

    def move_a_piece(self, files: Files) -> None:
        name = self.some(files)
        content, size = files[name], self.draw.randint(1, 16)
        begin, to = self.place(content), self.place(content)
        piece, rest = content[begin : begin + size], content[:begin] + content[begin + size :]
        files[name] = rest[:to] + piece + rest[to:]

    def swap_two_files(self, files: Files) -> None:
        one, two = self.draw.sample(sorted(files), 2)
        files[one], files[two] = files[two], files[one]

    def copy_a_file_over_another(self, files: Files) -> None:
        one, two = self.draw.sample(sorted(files), 2)
        files[one] = files[two]

    def lose_a_file(self, files: Files) -> None:
        del files[self.some(files)]

    def add_a_file(self, files: Files) -> None:
        name = self.draw.choice(["ema.safetensors", ".hidden", "state.json~", "a", "LATEST", "model.pt"])
        files[name] = files[self.some(files)] if self.draw.random() < 0.5 else b""

    def rename_a_file(self, files: Files) -> None:
        name = self.some(files)
        files[self.draw.choice([name.upper(), f"{name}.json", f"x{name}"])] = files.pop(name)

    def take_a_file_of_another(self, files: Files) -> None:
        name = self.some(files)
        files[name] = self.other[name]

    def take_a_tensor_of_another_file(self, files: Files) -> str:
        """Of the same name, dtype and shape."""
        donor = self.draw.choice([self.other["model.safetensors"], files["optimizer.safetensors"]])
        entry = self.draw.choice(["encoder.weight", "encoder.bias"])
        files["model.safetensors"] = with_tensor(files["model.safetensors"], entry, tensor_of(donor, entry))
        return entry

    def swap_two_tensors(self, files: Files) -> None:
        """Of the same dtype and shape, between the model and its optimizer."""
        entry = self.draw.choice(["encoder.weight", "encoder.bias"])
        one, two = (files[name] for name in ("model.safetensors", "optimizer.safetensors"))
        files["model.safetensors"] = with_tensor(one, entry, tensor_of(two, entry))
        files["optimizer.safetensors"] = with_tensor(two, entry, tensor_of(one, entry))


def tensor_of(content: bytes, entry: str) -> bytes:
    begin = 8 + int.from_bytes(content[:8], "little")
    first, last = json.loads(content[8:begin])[entry]["data_offsets"]
    return content[begin + first : begin + last]


def with_tensor(content: bytes, entry: str, of: bytes) -> bytes:
    begin = 8 + int.from_bytes(content[:8], "little")
    first, last = json.loads(content[8:begin])[entry]["data_offsets"]
    return content[: begin + first] + of + content[begin + last :]


def put(folder: Path, files: Files, there: Files) -> None:
    """Make the directory hold `files`, where `there` is what it holds now."""
    for name in there.keys() - files.keys():
        (folder / name).unlink()
    for name, content in files.items():
        if name not in there:
            (folder / name).write_bytes(content)
        elif there[name] != content:
            with open(folder / name, "r+b") as file:  # some disks take their time to empty a file first
                file.write(content)
                file.truncate()


def survey(folder: Path, count: int, seed: int) -> dict[str, Counter[str]]:
    """Make so many mutations, check each, and count by kind what became of them."""
    files, other = bundle_at(folder / "step-1", 1), bundle_at(folder / "step-2", 2)
    path, there = folder / "step-1", dict(files)
    mutations, table = Mutations(files, other, seed), dict[str, Counter[str]]()
    for number in range(count):
        kind, changed, entry = mutations.next()
        put(path, changed, there)
        there = changed
        touched = {name for name in files.keys() | changed.keys() if files.get(name) != changed.get(name)}
        row = table.setdefault(kind, Counter(made=0, refused=0, entry=0, same=0))
        row["made"] += 1
        try:
            read_bundle(path)
        except CheckpointDamaged as error:
            assert touched, f"{kind}: nothing was changed, and it was refused: {error}"
            another_manifest = touched == {"manifest.json"}  # a whole one: then the others are not what it lists
            assert error.file in touched or another_manifest, f"{kind}: {error} names none of {touched}"
            assert str(path) in str(error) and repr(error.file) in str(error)
            assert entry is None or error.entry == entry, f"{kind}: {error} does not name {entry}"
            row["refused"] += 1
            row["entry"] += error.entry is not None
            if number % 10 == 0:
                assert str(error) in verify_bundle(path)
        else:
            assert not touched, f"{kind}: {touched} changed, and it was accepted"
            row["same"] += 1
    put(path, files, there)
    assert verify_bundle(path) == []
    return table


def test_no_mutation_is_accepted_silently(tmp_path: Path) -> None:
    table = survey(tmp_path, 300, seed=0)
    assert len(table) == 18 and sum(row["refused"] for row in table.values()) > 290


@pytest.mark.slow
def test_none_of_a_hundred_thousand_mutations_is_accepted_silently(tmp_path: Path) -> None:
    table = survey(tmp_path, 100_000, seed=1)
    total = sum(table.values(), Counter())
    for kind, row in [*sorted(table.items()), ("all", total)]:
        columns = "".join(f"{row[name]:>9}" for name in ("made", "refused", "entry", "same"))
        print(f"{kind.replace('_', ' '):<32}{columns}")
    assert total["made"] == total["refused"] + total["same"] == 100_000
    assert all(row["refused"] > 1000 for row in table.values())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    bundle_at(tmp_path / "step-1", 1)
    return tmp_path / "step-1"


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_each_single_bit_counts(name: str, path: Path) -> None:
    content = (path / name).read_bytes()
    for place in range(0, len(content), 7):
        for bit in (0, 5):
            (path / name).write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            with pytest.raises(CheckpointDamaged, match=name):
                read_bundle(path)


def test_verify_tells_all_that_is_wrong(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    for entry in ("encoder.weight", "half"):
        content = with_tensor(content, entry, bytes(len(tensor_of(content, entry))))
    (path / "model.safetensors").write_bytes(content)
    (path / "loader.json").write_bytes(b"{}\n")
    (path / "state.json").unlink()
    (path / "notes.txt").touch()
    (path / "a\x1b[31m").touch()
    told = verify_bundle(path)
    assert [line.split("is damaged: ")[1].split(":")[0] for line in told] == [
        r"'a\x1b[31m'",
        "'notes.txt'",
        "'model.safetensors'",
        "'model.safetensors'",
        "'state.json'",
        "'loader.json'",
    ]
    assert "entry 'encoder.weight': its bytes have the CRC-32" in told[2] and "entry 'half'" in told[3]
    assert "it is missing, and manifest.json lists it" in told[4] and "has 3 bytes, manifest.json says" in told[5]
    assert all(str(path) in line and line.endswith(".") and line.isascii() for line in told)
    (path / "manifest.json").unlink()
    (only,) = verify_bundle(path)
    assert "'manifest.json': it is missing" in only and "Use an older checkpoint" in only


def test_a_header_that_differs_is_told_with_its_entry(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content.replace(b'"dtype":"F16"', b'"dtype":"I16"'))
    with pytest.raises(CheckpointDamaged, match="its header differs .* at byte") as caught:
        read_bundle(path)
    assert (caught.value.file, caught.value.entry) == ("model.safetensors", "half")


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_only_regular_files_are_read(name: str, kind: str, path: Path, tmp_path: Path) -> None:
    shutil.copy(path / name, tmp_path / "same")
    (path / name).unlink()
    make = {"link": lambda: (path / name).symlink_to("../same"), "directory": (path / name).mkdir}
    make.get(kind, lambda: os.mkfifo(path / name))()
    with pytest.raises(CheckpointDamaged) as caught:
        read_bundle(path)
    assert caught.value.file == name
    assert verify_bundle(path) == [str(caught.value)]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errno.EIO, CheckpointDamaged),
        (errno.ENOENT, CheckpointDamaged),
        (errno.EACCES, CheckpointError),
        (errno.EMFILE, CheckpointError),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else value.__name__,
)
def test_what_cannot_be_read_is_told_from_what_is_damaged(
    error: int, kind: type[CheckpointError], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    for name in ("manifest.json", "state.json"):

        def refused(at: str, *rest: int, name: str = name) -> int:
            if str(at).endswith(name):
                raise OSError(error, os.strerror(error), at)
            return opened(at, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refused)
            with pytest.raises(CheckpointError, match=name) as caught:
                read_bundle(path)
            assert type(caught.value) is kind
            assert ("it is missing" if error == errno.ENOENT else os.strerror(error)) in str(caught.value)
            assert verify_bundle(path) == [str(caught.value)]


def test_what_no_memory_is_left_for_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*shape: object, **options: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(CheckpointError, match=r"entry 'seen': no tensor of the shape \[\] can be made here"):
        read_bundle(path)
