"""Loading: from the `module:object` of a command line to a Learner."""

import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from inspect import isclass, isroutine, signature
from pathlib import Path
from typing import Any

from learner.errors import ArgumentError, LearnerError
from learner.learner import Learner
from learner.opening import only_looking
from stages import Finding, GraphError, StageError
from state import StateError
from state.errors import a_kind, nearest, suggestion


class NotBuilt(LearnerError):
    """What `module:object` names was found, and one of our packages refused to build it.

    Attributes:
        findings: why, one for each fault.
    """

    def __init__(self, error: Exception) -> None:
        one = Finding("error", "not built", (), str(error))
        self.findings = error.findings if isinstance(error, GraphError) else (one,)
        super().__init__(str(error))


def load(target: str) -> Learner:
    """The Learner that `module:object` names, or that the function of that name makes.

    The working directory is the last place where the module is looked for, so that no file in it hides an installed
    one. What the module prints goes to standard error. An exception of its own is shown with the traceback of its own
    lines, and ends the command with exit code 1.

    Raises:
        ArgumentError: there is no such module or object, or it is something else.
        NotBuilt: it raised an error of ours.
    """
    name, colon, path = target.partition(":")
    parts = [*name.split("."), *path.split(".")]
    if not colon or name.endswith(".py") or not all(part.isidentifier() for part in parts):
        like = name.removesuffix(".py").strip("./").replace("/", ".")
        told = f"Write the module as `import` does, a colon, and the name in it: {like or 'mine'}:{path or 'learner'}"
        raise _refused(target, f"it is no module:object. {told}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with redirect_stdout(sys.stderr), only_looking():
        found = _attribute(target, _module(target, name), path)
        if isinstance(found, Learner):
            return found
        makes = isroutine(found) or isclass(found)
        needs = _needs(found) if makes else ""
        made = _guarded(found) if makes and not needs else found
    if isinstance(made, Learner):
        return made
    is_a = f"it makes {a_kind(made)}" if made is not found else f"it is {a_kind(found)}"
    problem = f"it wants the arguments {needs}" if needs else is_a
    raise _refused(target, f"{problem}. Name a Learner, or a function without arguments that makes one.")


def trained(target: str, batches: int | None) -> Learner:
    """The Learner that `module:object` names, after so many batches of training, of which no run is kept.

    Raises:
        ArgumentError, NotBuilt: as `load`; NotBuilt too if an error of ours ends the training.
    """
    learner = load(target)
    if batches is not None:
        with redirect_stdout(sys.stderr):
            _guarded(lambda: learner.fit(batches=batches))
    return learner


def _module(target: str, name: str) -> Any:
    def find() -> Any:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # found, and it imports something that is not there
            beside = [path.stem for path in Path().glob("*.py")]
            told = f"no module {error.name!r} is installed or in {str(Path.cwd())!r}."
            return _refused(target, told + suggestion(nearest(name, beside)))

    found = _guarded(find)
    if isinstance(found, ArgumentError):
        raise found
    return found


def _attribute(target: str, module: Any, path: str) -> Any:
    found = module
    for part in path.split("."):
        if part not in dir(found):
            file = getattr(module, "__file__", None) or "Python itself"
            beside = Path.cwd() / f"{module.__name__.partition('.')[0]}.py"
            hides = f" It hides {str(beside)!r}: rename that file." if beside.is_file() and str(beside) != file else ""
            told = f"{module.__name__!r} from {file} has no {part!r}.{suggestion(nearest(part, dir(found)))}"
            raise _refused(target, told + hides)
        found = getattr(found, part)
    return found


def _guarded(run: Callable[[], Any]) -> Any:
    """Run code of the user's: our refusals as NotBuilt, exceptions of its own as a traceback and exit code 1."""
    try:
        return run()
    except (StateError, StageError, LearnerError) as error:
        raise NotBuilt(error) from error
    except Exception as error:
        frames = error.__traceback__
        while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
            frames = frames.tb_next
        traceback.print_exception(error.with_traceback(frames), file=sys.stderr)
        raise SystemExit(1) from None


def _is_ours(file: str) -> bool:
    """Whether a line of a traceback stands before the user's code: here, or in what imports a module."""
    return file == __file__ or file.startswith("<frozen importlib") or Path(file).parent.name == "importlib"


def _needs(function: Callable[..., Any]) -> str:
    """The arguments without which it cannot be called."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return ""
    needed = [each for each in parameters if each.default is each.empty and "VAR" not in each.kind.name]
    return ", ".join(each.name for each in needed)


def _refused(target: str, problem: str) -> ArgumentError:
    return ArgumentError(repr(target), "module:object", problem)
