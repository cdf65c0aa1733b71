"""Passes: iterations over a loader whose order follows from a seed and a count, and which know where they are."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from learner.errors import ArgumentError, PositionError
from state.errors import a_kind

_SETTINGS = ("length", "batch_size", "shuffle", "drop_last", "seed")
_POSITION = ("epoch", "open", "batch")


def mixed(seed: int, *counters: int) -> int:
    """128 bits that follow from a seed and counters, and differ throughout between neighbours.

    They are the same on every machine and in every release: checkpoints rest on them.
    """
    text = ":".join(map(str, (seed, *counters)))
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little")


def permutation(length: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in one pass: int64, shape `(length,)`, on the CPU. Draws from no shared generator."""
    generator = torch.Generator().manual_seed(mixed(seed, epoch) % 2**64)
    return torch.randperm(length, generator=generator, device="cpu")


@dataclass(slots=True)
class Place:
    """Where a pass is.

    Attributes:
        epoch: the number of the pass, from 0.
        given: the batches that it has given, those before a resume included.
    """

    epoch: int
    given: int = 0


class CountedLoader(ABC):
    """A loader that keeps its position by counting: passes begun, and batches given in the pass that is open.

    What a pass gives follows from the settings and its number alone. A pass begins with its first batch, not with
    `iter()`, and is open until its last batch is given. The state is that of the pass that began last; each pass of
    `iter()` has a `state_dict` of its own. Without `seed` it is that of the Learner, and 0 if that has none.
    """

    def __init__(
        self,
        *,
        length: int,
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        who = type(self).__name__
        for name, value, least in (("batch_size", batch_size, 1), ("seed", 0 if seed is None else seed, None)):
            if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
                kind = "an integer" if least is None else f"an integer, {least} or more"
                raise ArgumentError(who, name, f"{name}={value!r} cannot be used; it wants {kind}.")
        for name, value in (("shuffle", shuffle), ("drop_last", drop_last)):
            if not isinstance(value, bool):
                raise ArgumentError(who, name, f"{name}={value!r} cannot be used; it wants True or False.")
        self.length, self.batch_size, self.shuffle = length, batch_size, shuffle
        self.drop_last, self.seed = drop_last, 0 if seed is None else seed
        self._keeps_seed = seed is not None
        self._begun = 0
        self._latest: Place | None = None  # no Pass, which holds its loader: a cycle would keep workers waiting
        self._resumes: Place | None = None  # loaded, and not yet gone on with

    @abstractmethod
    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        """The batches of pass `epoch`, counted from 0, from batch `first` on."""

    def sow(self, seed: int | None) -> None:
        """Take the seed of a Learner for the passes that begin from now on, unless it was made with one of its own."""
        if not self._keeps_seed:
            self.seed = 0 if seed is None else seed

    def order(self, epoch: int) -> Tensor:
        """The samples of a pass in the order in which it gives them: int64, shape `(length,)`."""
        return permutation(self.length, self.seed, epoch) if self.shuffle else torch.arange(self.length)

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> "Pass":
        return Pass(self)

    def state_dict(self) -> dict[str, Any]:
        """The position of the pass that began last, and the settings it rests on; plain values, fit for JSON.

        `epoch` is the number of passes begun, `open` the number, from 0, of the pass that is not yet at its end (else
        None), and `batch` the number of batches that it has given (else 0).
        """
        return self.state_at(self._latest)

    def state_at(self, place: Place | None) -> dict[str, Any]:
        """The state whose position is `place`, in a pass that may have begun earlier."""
        is_open = place is not None and 0 < place.given < len(self)
        open_pass = {"open": place.epoch, "batch": place.given} if place and is_open else {"open": None, "batch": 0}
        return {"epoch": self._begun} | open_pass | {name: getattr(self, name) for name in _SETTINGS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where `state` says: the rest of the pass that was open, else the next pass.

        Passes that are under way go on undisturbed.

        Raises:
            PositionError: the state is of another loader or of other settings. Nothing has changed then.
        """
        self.check_state(state)
        self._begun = state["epoch"]
        self._latest = self._resumes = None if state["open"] is None else Place(state["open"], state["batch"])

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Whether `load_state_dict` takes it.

        Raises:
            PositionError: it does not.
        """
        who = type(self).__name__
        wanted = {*_SETTINGS, *_POSITION}
        if not isinstance(state, Mapping) or state.keys() != wanted:
            got = sorted(map(str, state)) if isinstance(state, Mapping) else a_kind(state)
            raise PositionError(who, f"this is no state of it: expected {sorted(wanted)}, got {got}.")
        for name in _SETTINGS:
            if (now := getattr(self, name)) != state[name]:
                told = f"{name}={state[name]!r} when the state was saved, {name}={now!r} now"
                raise PositionError(who, f"{told}: the rest of the pass would be other samples. {_remedy(name)}")
        epoch, number, batch = (state[name] for name in _POSITION)
        counts = all(isinstance(value, int) and value >= 0 for value in (epoch, batch))
        between = batch == 0 and number is None
        within = counts and isinstance(number, int) and 0 <= number < epoch and 0 < batch < len(self)
        if not counts or not (between or within):
            told = f"epoch={epoch!r}, open={number!r}, batch={batch!r} is no position among {len(self)} batches."
            raise PositionError(who, f"{told} The state is damaged; take it from another checkpoint.")

    def _begin(self) -> Place:
        place, self._resumes = self._resumes, None
        if place is None:
            place = Place(self._begun)
            self._begun += 1
        self._latest = place
        return place


class Pass(Iterator[Any]):
    """One pass over a CountedLoader, and where it is.

    Attributes:
        place: where it is; None until it begins.
        source: what gives its batches; None until it begins.
    """

    def __init__(self, loader: CountedLoader) -> None:
        self.loader = loader
        self.place: Place | None = None
        self.source: Iterator[Any] | None = None

    def __next__(self) -> Any:
        if self.place is None:
            self.place = self.loader._begin()
            self.source = self.loader.batches(self.place.epoch, self.place.given)
        batch = next(self.source)  # type: ignore[arg-type]  # there is one since the pass began
        self.place.given += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """As the loader's, but with the position of this pass, whatever else began meanwhile."""
        return self.loader.state_at(self.place or self.loader._resumes)  # the latter, if this pass would go on there


def length_of(owner: str, data: object) -> int:
    """The number of samples of a dataset.

    Raises:
        ArgumentError: it has no length.
    """
    if not isinstance(data, Sized):
        told = f"the {type(data).__name__} has no len(). A pass in a shuffled order needs to know how many samples"
        raise ArgumentError(owner, "dataset", f"{told} there are: give the dataset a __len__.")
    return len(data)


def _remedy(name: str) -> str:
    if name == "length":
        return "Give it the same data, or start a new run."
    return f"Set {name} back, or start a new run."
