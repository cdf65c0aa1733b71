"""Writes the parts of the documentation that follow from the code: `python docs/generate.py`.

Each part stands in its page between a line `<!-- generated: NAME -->` and a line `<!-- end -->`. A test compares the
pages with what this file makes, so that they cannot drift from the code.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from learner.invariants import defaults
from learner.testing import toy_learner
from stages.check import Readiness
from stages.place import CHECKPOINT
from stages.tables import short_names
from state import State, TrainState
from state.fields import MISSING, FieldSpec

sys.path.append(str(Path(__file__).parents[1]))  # of the repository, whose tests hold the silent bugs

from tests.silent_bugs import catalogue  # noqa: E402

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: (\S.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Row = tuple[str, ...]


def slots() -> str:
    """The points of the default tree in running order, with what has a value before each."""
    learner = toy_learner()
    before, after = readiness(learner)
    short = short_names(place.path for place in learner.assembly.places)
    rows: list[Row] = [("slot", "ready before it", "new after it", "changed by it")]
    for place in learner.assembly.places:
        depth = "&emsp;" * place.path.count("/")
        new = [name for name in after[place.path] if name not in before[place.path]]
        ready = ", ".join(f"`{name}`" for name in before[place.path]) or "-"
        changes = [] if place.kind == CHECKPOINT else [name for name in place.access.writes if name not in new]
        rows.append((f"{depth}`{short[place.path]}`", ready, names(new), names(changes)))
    return table(rows)


def readiness(learner: Any) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """For each path, the scoped fields, and the gradients, that have a value before and after its stage."""
    shown = [name for name, spec in TrainState.specs.items() if spec.scope != "run"] + ["model.grads"]
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for place in learner.assembly.places:
        learner.before(place.path)(_observer())
        learner.after(place.path)(_observer())

    class Noting(Readiness):
        """A walk of the check that keeps what was ready at each observer of ours."""

        def _hook(self, hook: Any) -> None:
            super()._hook(hook)
            path, side, name = hook.path.split(":")
            if name.startswith("observe"):
                found = before if side == "before" else after
                found[path] = [name for name in shown if name in self.ready]

    made = learner.assembly
    given = {name for name, spec in made.schema.specs.items() if spec.scope == "run"}
    Noting(made.places, made.schema, made.names, given).walk(made.root)
    return before, after


def _observer() -> Callable[[Any], None]:
    def observe(state: Any) -> None:
        """Only its place matters."""

    return observe


def fields() -> str:
    """The fields of TrainState."""
    rows: list[Row] = [("field", "type", "scope", "default", "saved", "description")]
    for spec in TrainState.specs.values():
        kept = spec.saved + (f" ({spec.because})" if spec.because else "")
        rows.append((f"`{spec.name}`", f"`{spec.type_text}`", spec.scope, default(spec), kept, spec.description))
    return table(rows)


def default(spec: FieldSpec) -> str:
    """What a field holds when its scope opens."""
    if spec.factory is not None:
        return "made anew"
    return "-" if spec.default is MISSING else f"`{spec.default!r}`"


def errors() -> str:
    """Every error class of the three packages, as its docstring says it."""
    parts = []
    for package in ("state", "stages", "learner"):
        module = import_module(f"{package}.errors")
        tree = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2]
        parts.append(f"## {package}\n\n```text\n{tree}\n```")
        for error in error_classes(module):
            bases = ", ".join(f"`{base.__name__}`" for base in error.__bases__)
            text = inspect.cleandoc(error.__doc__ or "")
            what, _, listed = text.partition("\n\nAttributes:\n")
            lines = [f"- `{name}`: {told}" for name, told in entries(listed)]
            parts.append(f"### {error.__name__}\n\nA kind of {bases}. {escaped(what)}")
            parts += ["\n".join(lines)] if lines else []
    return "\n\n".join(parts)


def error_classes(module: ModuleType) -> list[type[BaseException]]:
    """The exceptions that a module defines, in order."""
    found = (thing for thing in vars(module).values() if inspect.isclass(thing) and issubclass(thing, BaseException))
    return [thing for thing in found if thing.__module__ == module.__name__]


def entries(listed: str) -> list[tuple[str, str]]:
    """Names and texts of an `Attributes:` section; a text may go on in further lines."""
    joined = re.sub(r"\n\s{4,}(?=\S)(?!\w+:)", " ", inspect.cleandoc(f"\n{listed}"))
    return [(name, escaped(told)) for name, _, told in (line.partition(": ") for line in joined.splitlines()) if told]


def public(package: str) -> str:
    """Every public name of a package, with its signature and the first line of its docstring."""
    module = import_module(package)
    listed = getattr(module, "__all__", None) or own_names(module)
    rows: list[Row] = [("name", "what it is")]
    for name in listed:
        thing = getattr(module, name)
        rows.append((f"`{name}{signature(thing)}`", escaped(summary(name, thing))))
    return table(rows)


def own_names(module: ModuleType) -> list[str]:
    """The public functions that a module without `__all__` defines."""
    found = (name for name, thing in vars(module).items() if inspect.isfunction(thing))
    return sorted(name for name in found if name[0] != "_" and getattr(module, name).__module__ == module.__name__)


def signature(thing: Any) -> str:
    """The parameters of a class or function by name, without annotations; nothing for a value or an error."""
    if not callable(thing) or (inspect.isclass(thing) and issubclass(thing, BaseException)):
        return ""
    if inspect.isclass(thing) and issubclass(thing, State):
        return "(**values)"
    given = list(inspect.signature(thing).parameters.values())
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in given]
    text = str(inspect.Signature(parameters))
    return text.replace(f"={MISSING!r}", "=MISSING")


def summary(name: str, thing: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    if not inspect.isclass(thing) and not inspect.isfunction(thing):
        return f"Stands for no value, where None is a value; prints as `{thing!r}`."
    return " ".join(inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].split())


def members() -> str:
    """The public methods and properties of Learner and ChangeLog."""
    from learner import ChangeLog, Learner

    rows: list[Row] = [("member", "what it does")]
    for owner in (Learner, ChangeLog):
        ours = [base for base in owner.__mro__ if base.__module__.partition(".")[0] in ("learner", "state")]
        for name, thing in (pair for base in ours for pair in vars(base).items()):
            if name.startswith("_"):
                continue
            function = thing.__func__ if isinstance(thing, classmethod) else thing
            shown = "" if isinstance(thing, property) else re.sub(r"\((self|cls)(, )?", "(", signature(function))
            rows.append((f"`{owner.__name__}.{name}{shown}`", escaped(summary(name, _documented(function)))))
    return table(rows)


def commands() -> str:
    """The commands of `learner` with their options."""
    from learner.cli import main

    rows: list[Row] = [("command", "options", "what it does")]
    for name, command in main.commands.items():
        usage = [f"{parameter.name.upper()}" for parameter in command.params if parameter.param_type_name == "argument"]
        options = [parameter.opts[-1] for parameter in command.params if parameter.param_type_name == "option"]
        told = escaped((command.help or "").partition("\n\n")[0])
        rows.append((f"`{' '.join(['learner', name, *usage])}`", names(options), told))
    return table(rows)


def silent_bugs() -> str:
    """What is said of each silent bug, by the mechanism it is for."""
    parts = []
    for name, rows in catalogue.tables():
        parts += [f"### {name}", table([*rows])]
    return "\n\n".join(parts)


def invariants() -> str:
    """What every Learner holds to; what is asked at several places is one row."""
    found: dict[str, tuple[list[str], list[str], str]] = {}
    for one in defaults():
        side = next(which for which in ("before", "after", "around") if getattr(one, which) is not None)
        target = f"`{one.target}`" if isinstance(one.target, str) else getattr(one.target, "__name__", "")
        target = target or f"who writes {names(one.target.names)}"
        within = f" within {one.within.__name__}" if isinstance(one.within, type) else ""
        places, compared, _ = found.setdefault(one.name, ([], [], one.then))
        places.append(f"{side} {target}{within}")
        compared.extend(one.compares)
    rows: list[Row] = [("it is always so that", "asked", "compares", "otherwise")]
    for name, (places, compared, then) in found.items():
        rows.append((name, "; ".join(dict.fromkeys(places)), names(compared), then))
    return table(rows)


def items(given: Mapping[str, str]) -> str:
    """A list of texts, each with what it is about."""
    return "\n".join(f"- {name}: {text}." for name, text in given.items())


def _documented(thing: Any) -> Any:
    return thing.fget if isinstance(thing, property) else thing


def names(given: Iterable[str]) -> str:
    """Names in code type, or a dash."""
    return ", ".join(f"`{name}`" for name in given) or "-"


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table; the first is the head."""
    head, *body = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Text of a docstring on one line, in which Markdown sees no tags."""
    return " ".join(text.split()).replace("<", "&lt;")


PARTS: dict[str, Callable[[], str]] = {
    "slots": slots,
    "fields": fields,
    "errors": errors,
    "members": members,
    "commands": commands,
    "state": lambda: public("state"),
    "stages": lambda: public("stages"),
    "learner": lambda: public("learner"),
    "learner.callbacks": lambda: public("learner.callbacks"),
    "learner.recipes": lambda: public("learner.recipes"),
    "learner.testing": lambda: public("learner.testing"),
    "invariants": invariants,
    "silent bugs: counts": lambda: f"{catalogue.reports()}\n\n{table(list(catalogue.counts()))}",
    "silent bugs: table": silent_bugs,
    "silent bugs: left out": lambda: items(catalogue.LEFT_OUT),
    "silent bugs: stands in": lambda: items(catalogue.STANDS_IN),
}


def generated(page: str) -> str:
    """The text of a page with its generated parts as the code has them now."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[4]}", page)


def pages() -> list[Path]:
    """The pages that have generated parts."""
    return [path for path in sorted(DOCS.rglob("*.md")) if PART.search(path.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    for path in pages():
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")
        print(path.relative_to(DOCS.parent))
