"""Notes: what an exception is told on its way out, and whoever finds a field without a value or a loop ended."""

from typing import TYPE_CHECKING

from stages.cancel import Cancel, Exhausted, Outcome, Skip
from stages.check import actors
from stages.errors import Misuse, StageError
from state.errors import nearest, suggestion
from state.sources import code_of

if TYPE_CHECKING:
    from stages.actor import Actor
    from stages.runner import Runner


def noted(runner: "Runner", error: BaseException, actor: "Actor") -> BaseException:
    """`error` with one note: who, where, after which rounds; a Cancel with its author.

    A Cancel of a scope that is not open becomes an error.
    """
    if isinstance(error, Cancel):
        error.by = error.by or actor.path
        if not runner.scopes.is_open(error.scope):
            scopes = ["run", *(scope for scope in runner.scopes.names if runner.scopes.is_open(scope))]
            told = f"{actor.path} cancels the scope {error.scope!r}, which is not open. Open are {scopes}."
            told += suggestion(nearest(error.scope, scopes))
            return with_note(runner, StageError(told), actor)
        return error
    return error if isinstance(error, Exhausted | Skip) else with_note(runner, error, actor)


def not_entered(path: str, how: Outcome) -> Misuse:
    """The error for a block of the user's round which a hook ended the loop before it began."""
    told = "The block of a `with` cannot be left out: take back what ends it, or use fit() or run()."
    ended = "what it stands in was cancelled" if how.ok else how
    return Misuse(f"{path} was not entered: {ended}. {told}")


def why_not_ready(runner: "Runner", name: str) -> str:
    """Why a field has no value now: who writes it, and when."""
    spec = runner.state.specs[name]
    writers = [path for path, access in actors(runner.assembly.places) if name in access.writes]
    if not writers:
        return f"Nobody in this tree writes it; set it, or pass {name}= to the State."
    who = " and ".join(writers[:2]) + (f" and {len(writers) - 2} more" if len(writers) > 2 else "")
    write = "writes" if len(writers) == 1 else "write"
    if spec.scope == "run":
        return f"{who} {write} it. Read it after that."
    if runner.scopes.is_open(spec.scope):
        told = f"{who} {write} it in this {spec.scope}, later or not at all: skipped, or with nothing to write."
        return f"{told} Read it after that, or as {name + '?'!r} (None where there is no value)."
    return f"{who} {write} it, and it is gone when its {spec.scope} ends."


def with_note(runner: "Runner", error: BaseException, actor: "Actor") -> BaseException:
    """`error` with one note: who, where, and what changed last."""
    if not getattr(error, "_staged", False):
        epoch, phase, batch, updates = runner.read_position()
        where = [f"epoch {epoch}"] if epoch is not None else []
        where += [f"{phase}, batch {batch}"] if phase is not None and batch is not None else []
        where += [f"update {updates}"] if updates is not None else []
        told = f"In {actor.path}" + (f" at {', '.join(where)}." if where else ".") + code_of([actor.source])
        last = runner.recording.recent(3) if runner.recording is not None else []
        error.add_note("\n  ".join([told + " The last changes:", *last]) if last else told)
        error._staged = True  # type: ignore[attr-defined]  # so that parents do not repeat the note
    return error
