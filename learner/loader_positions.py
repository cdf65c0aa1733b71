"""Positions: where a loader stands, in plain values and tensors, and how another process goes on from there.

A loader with a state of its own is asked for it; of a list the count is enough; any other that can be read again is
read up to the place, with the generators as they were when the pass began. These functions see to the generators inside
a loader; those of the program (torch, numpy, Python) are the caller's, who sets them, for `READING`, as they were when
the pass began before `restore_position`, and in any case as they were at the checkpoint after it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, Final, Literal

from torch.utils.data import DataLoader

from learner.errors import PositionError
from learner.own_generators import set_states, states_of
from learner.passes import CountedLoader, Pass

Way = Literal["state", "count", "reading", "once"]

STATE: Final = "state"  # by a state of its own
COUNT: Final = "count"  # by the number of batches given
READING: Final = "reading"  # by reading and dropping what was given
ONCE: Final = "once"  # it can be read once, so not at all

_PLAIN_ITER = (list.__iter__, tuple.__iter__, range.__iter__, Sequence.__iter__)
_SETTINGS = ("batch_size", "drop_last", "num_workers")
_DIFFER = "Random numbers drawn in its workers will differ: their generators are in no state"
_KEEPERS = "TensorBatches, SampleBatches and torchdata's StatefulDataLoader keep a position"


def way_of(loader: object) -> Way:
    """How a place in this loader is found again."""
    if all(callable(getattr(loader, name, None)) for name in ("state_dict", "load_state_dict")):
        return STATE
    if isinstance(loader, Iterator):
        return ONCE
    if isinstance(loader, Sequence) and type(loader).__iter__ in _PLAIN_ITER:
        return COUNT
    return READING


def describe(loader: object) -> str:
    """One line: how a run over this loader is resumed in the middle of a pass, and what that costs."""
    who, way = type(loader).__name__, way_of(loader)
    workers = bool(getattr(loader, "num_workers", 0))
    if way == STATE:
        told = f"{who} is resumed by its own state, without loading anything twice"
        return f"{told}. {_DIFFER}" if workers and _is_torchdatas(loader) else told
    if way == COUNT:
        return f"{who} is resumed by the count of the batches given"
    if way == ONCE:
        return f"{who} cannot be resumed in the middle of a pass: it can be read once. {_KEEPERS}"
    told = f"{who} is resumed by reading and dropping the batches before it: it keeps no position. {_KEEPERS}"
    return f"{told}. {_DIFFER}" if workers and getattr(loader, "persistent_workers", False) else told


def position_of(
    loader: object,
    given: int | None,
    batches: object = None,
    *,
    began: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a checkpoint has to keep of a loader: plain values, and tensors where generators or its own state have them.

    Draws from no generator, and begins no pass.

    Args:
        given: the batches that the open pass has given; None where no pass is open.
        batches: the iterator of the open pass. With it the place is right even if another pass began meanwhile.
        began: `states_of(loader)` from before the `iter()` of the open pass. Needed where `way_of` says READING and
            the loader holds generators.
    """
    way, who = way_of(loader), type(loader).__name__
    position: dict[str, Any] = {"way": way, "loader": who, "given": given}
    if not isinstance(loader, CountedLoader):  # which has them in its state
        position["settings"] = _settings(loader)
    if way == STATE:
        return position | {"state": _own_state(loader, given, batches)}
    if way == READING:
        now = states_of(loader)
        if given is not None and now.keys() - (began or {}).keys():
            told = f"it holds the generators {sorted(now)}, and their states from before the pass are not known."
            raise PositionError(who, f"{told} Note learner.own_generators.states_of(loader) before iter(loader).")
        position |= {"generators": now, "began": dict(began or {}) if given is not None else {}}
    return position


def restore_position(loader: object, position: Mapping[str, Any]) -> Iterator[Any] | None:
    """Bring a loader to a position.

    Returns:
        The batches that the open pass has still to give, none if it had given all; None where no pass was open, and the
        next `iter()` begins the next pass.

    Raises:
        PositionError: as `check_position` (nothing has changed then), or it ends before the place.
    """
    check_position(loader, position)
    way, given = way_of(loader), position["given"]
    if way == STATE:
        return _resume_state(loader, given, position["state"])
    if given is None:
        set_states(loader, position.get("generators", {}))
        return None
    if way == COUNT:
        return islice(iter(loader), given, None)  # type: ignore[call-overload]  # it was checked
    set_states(loader, position.get("began", {}))
    batches: Iterator[Any] = iter(loader)  # type: ignore[call-overload]
    skip(batches, given, owner=type(loader).__name__)
    set_states(loader, position.get("generators", {}))
    return batches


def check_position(loader: object, position: Mapping[str, Any]) -> None:
    """Whether a loader can be brought to a position, as far as can be known before.

    Raises:
        PositionError: the position is of another kind of loader or of other settings, or the loader can be read once.
    """
    who, way, given = type(loader).__name__, way_of(loader), position["given"]
    if way != position["way"] or (way == STATE and who != position["loader"]):
        told = f"the position is of a {position['loader']}, and kept as {position['way']!r}; this one keeps {way!r}."
        raise PositionError(who, f"{told} Resume with the loader that was used, or start a new run.")
    if isinstance(loader, CountedLoader):
        loader.check_state(position["state"])
    else:
        _compare(loader, position["settings"])
    if way == ONCE and given:
        told = f"{given} batches were given, and a {who} can be read once: what is left of it cannot be found again."
        raise PositionError(who, f"{told} Use an object whose __iter__ starts anew. {_KEEPERS}.")
    if not isinstance(loader, Iterable):
        raise PositionError(who, "it cannot be iterated over.")


def skip(batches: Iterator[Any], count: int, *, owner: str = "") -> None:
    """Read and drop `count` batches.

    Raises:
        PositionError: there are fewer.
    """
    for number in range(count):
        try:
            next(batches)
        except StopIteration:
            told = f"it ended after {number} batches, and {count} were given before the checkpoint."
            remedy = "Give it the same data and the same batch size, or start a new run."
            raise PositionError(owner or type(batches).__name__, f"{told} {remedy}") from None


def _own_state(loader: Any, given: int | None, batches: object) -> Any:
    if isinstance(loader, CountedLoader):
        if not given:  # an earlier pass that was broken off is not gone on with
            return loader.state_dict() | {"open": None, "batch": 0}
        return batches.state_dict() if isinstance(batches, Pass) else loader.state_dict()
    if given is not None and callable(getattr(batches, "state_dict", None)):
        return batches.state_dict()  # type: ignore[attr-defined]
    if _is_torchdatas(loader) and loader._iterator is None:  # it would start workers and draw a seed to answer
        return loader.next_iter_state
    return loader.state_dict()


def _resume_state(loader: Any, given: int | None, state: Any) -> Iterator[Any] | None:
    if state is None:  # no pass had begun
        return None if given is None else iter(loader)
    loader.load_state_dict(state)
    if isinstance(loader, CountedLoader):
        is_at_end = bool(given) and state["open"] is None
    else:
        is_at_end = _is_torchdatas(loader) and state["_iterator_finished"]
    if given is not None and not is_at_end:
        batches: Iterator[Any] = iter(loader)
        return batches
    if _is_torchdatas(loader):
        # Its next iter() shall begin a pass, and draw one seed as ever, not a second one for the pass in the state:
        # that one is opened here, by state_dict() if it was at its end, so that iter() sees it finished.
        loader.state_dict() if is_at_end else iter(loader)
    return None if given is None else iter(())


def _is_torchdatas(loader: object) -> bool:
    """Whether it is a StatefulDataLoader, which need not be installed."""
    return isinstance(loader, DataLoader) and hasattr(loader, "next_iter_state")


def _settings(loader: object) -> dict[str, Any]:
    """What has to be the same for the batches before the place to be the same."""
    found = {name: getattr(loader, name, None) for name in _SETTINGS}
    settings: dict[str, Any] = {name: value for name, value in found.items() if isinstance(value, int | None)}
    sampler = getattr(loader, "sampler", None)
    settings["sampler"] = None if sampler is None else type(sampler).__name__
    try:
        settings["batches"] = len(loader) if isinstance(loader, Sized) else None
    except (TypeError, NotImplementedError):  # a DataLoader over a dataset without length
        settings["batches"] = None
    return settings


def _compare(loader: object, before: Mapping[str, Any]) -> None:
    now = _settings(loader)
    for name, value in before.items():
        if now.get(name) != value:
            told = f"{name}={value!r} when the checkpoint was made, {name}={now.get(name)!r} now"
            better = " With SampleBatches it would not matter." if name == "num_workers" else ""
            remedy = f"Give it as it was, or start a new run.{better}"
            raise PositionError(type(loader).__name__, f"{told}: the rest of the pass would differ. {remedy}")
