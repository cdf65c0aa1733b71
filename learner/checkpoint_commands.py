"""The commands about checkpoints: which there are, whether they are whole, how two differ; weights from elsewhere."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

from learner import answers
from learner.answers import DAMAGED, FINDING, as_json
from learner.checkpoints import FOLDER, Kept, describe, find_checkpoints, is_run
from learner.errors import ArgumentError
from learner.keeping import LOADERS
from learner.question_commands import show_diff
from state.bundle import Bundle, read_bundle, verify_bundle
from state.differences import Difference, differences
from state.errors import nearest, suggestion
from state.runs import LOG_FILE
from state.snapshot import VALUES

_OF_RUN = ("position", "standing", "limit", "history", "number", "torch", "made")
"""What two checkpoints tell of their runs that is compared: not when they were made, nor how long things took."""


@click.command()
@click.argument("run")
@click.option(
    "--verify", "is_verifying", is_flag=True, help="Read every byte, instead of names and sizes of files only."
)
@as_json
@click.pass_context
def checkpoints(ctx: click.Context, run: str, is_verifying: bool, as_json: bool) -> None:
    """List the checkpoints of a run, complete or not as their manifests tell. Exit code 3 if one is damaged."""
    found = find_checkpoints(run)
    answers.show_passed_over(run, found[-1].path.parent.parent, "keeps none")
    rows = [_row(kept, is_verifying) for kept in found]
    damaged = any(row["problems"] for row in rows)
    if as_json:
        answers.show_json(rows)
    else:
        best = sorted({row["best"] for row in rows if row["best"]})
        columns = {"number": "cyan", "made": "", "at": "green", best[0] if len(best) == 1 else "best": "", "size": ""}
        answers.show_table(
            {**columns, "files": ""},
            [
                (r["number"], r["made"], r["at"], r["value"], _size(r["size"]), _state(r["problems"], is_verifying))
                for r in rows
            ],
        )
        answers.show_next("verify", f"{run}:{rows[-1]['number']}" if not damaged and len(rows) > 1 else run)
    ctx.exit(DAMAGED if damaged else 0)


@click.command()
@click.argument("checkpoint")
@as_json
@click.pass_context
def verify(ctx: click.Context, checkpoint: str, as_json: bool) -> None:
    """Read every byte of a checkpoint, or of all of a run, and compare. Exit code 3 if one is damaged."""
    found = find_checkpoints(checkpoint)
    rows = [{"path": str(kept.path), "problems": verify_bundle(kept.path)} for kept in found]
    damaged = any(row["problems"] for row in rows)
    if as_json:
        answers.show_json({"ok": not damaged, "checkpoints": rows})
    else:
        for row in rows:
            for problem in row["problems"]:
                answers.show(str(problem), "red")
            if not row["problems"]:
                answers.show(f"Checkpoint {row['path']!r} is whole.", "green")
        if len(rows) > 1 and not damaged:
            answers.show_next("diff", *(str(row["path"]) for row in rows[-2:]))
        elif found[-1].path.parent.name == FOLDER:
            answers.show_next("checkpoints", str(found[-1].path.parent.parent))
    ctx.exit(DAMAGED if damaged else 0)


@click.command()
@click.argument("first", metavar="RUN|CHECKPOINT")
@click.argument("second", metavar="RUN|CHECKPOINT")
@click.option(
    "--only", multiple=True, metavar="FIELD", help="This field, or those that match: 'best_*'. May be repeated."
)
@click.option("--tolerance", type=float, default=0.0, metavar="PART", help="Of runs: how far two floats may be apart.")
@as_json
@click.pass_context
def diff(ctx: click.Context, first: str, second: str, only: tuple[str, ...], tolerance: float, as_json: bool) -> None:
    """Say where two runs part, or in what two checkpoints differ. Exit code 1 if they do.

    Two names of runs are compared by their logs, in the order in which they ran. A CHECKPOINT is a directory of one, or
    a run with a number: runs/demo:7.
    """
    if not only and is_run(first) and is_run(second):
        show_diff(ctx, first, second, tolerance, as_json)
    paths = [find_checkpoints(name)[-1].path for name in (first, second)]
    one, other = comparable(*paths)
    fields = list(dict.fromkeys([*one.tensors, *one.documents, *other.tensors, *other.documents]))
    for pattern in only:
        if not any(fnmatch(field, pattern) for field in fields):
            told = f"--only names {pattern!r}, and neither has it.{suggestion(nearest(pattern, fields))}"
            raise ArgumentError("diff", "only", f"{told} They have {fields}.")
    rows: list[dict[str, Any]] = [
        {"field": field, "name": each.entry, "first": each.left, "second": each.right}
        | {"unequal": each.unequal, "largest": each.largest}
        for field, each in _ordered(differences(one, other), fields)
        if not only or any(fnmatch(field, pattern) for pattern in only)
    ]
    if as_json:
        answers.show_json({"first": str(paths[0]), "second": str(paths[1]), "differences": rows})
    elif not rows:
        answers.show(f"Equal, bit for bit{f', in {list(only)}' if only else ''}: {paths[0]} and {paths[1]}", "green")
    else:
        _show_differences(rows)
        changed = list(dict.fromkeys(str(row["field"]) for row in rows))
        if len(changed) > 1:
            answers.show_next("diff", first, second, "--only", changed[0])
        elif (paths[1].parent.parent / LOG_FILE).is_file() and changed[0] not in ("run", "rng"):
            answers.show_next("blame", str(paths[1].parent.parent), changed[0])
    ctx.exit(FINDING if rows else 0)


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--key", default="", metavar="NAME", help="Where the weights are in the file: state_dict, ema.model.")
@click.option("--strip", default="", metavar="PREFIX", help="Take this off the begin of each name: module.")
@as_json
def import_weights(file: Path, out: Path, key: str, strip: str, as_json: bool) -> None:
    """Take the weights out of a file of torch.save into OUT, a safetensors file. Runs nothing that the file holds."""
    from learner.importing import read_weights, shared_prefix, write_weights

    if out.suffix != ".safetensors":
        raise click.BadParameter(f"{str(out)!r} does not end in .safetensors.", param_hint="OUT")
    weights = read_weights(file, key, strip)
    size, prefix = write_weights(out, weights), shared_prefix(weights.tensors)
    if as_json:
        answers.show_json({"file": str(out), "tensors": list(weights.tensors), "left_out": weights.left_out})
        return
    answers.show(f"{len(weights.tensors)} tensors, {_size(size)}, in {out}", "green")
    left = f", not {', '.join(weights.left_out)}" if weights.left_out else ""
    answers.show(f"Weights only were taken{left}: an optimizer of another program cannot be gone on with.")
    if prefix:
        answers.show(f"All names begin with {prefix!r}. If those of your model do not: --strip {prefix}", "yellow")
    answers.show(f"In Python: model.load_state_dict(safetensors.torch.load_file({str(out)!r}))")


COMMANDS = (checkpoints, verify, diff, import_weights)


def comparable(first: Path, second: Path) -> tuple[Bundle, Bundle]:
    """Two checkpoints with what belongs to each field of State together, fit to be compared."""
    one, other = read_bundle(first), read_bundle(second)
    _forget_lone_gradients(one, other)
    return _by_field(one), _by_field(other)


def _row(kept: Kept, is_verifying: bool) -> dict[str, Any]:
    run = kept.run()
    size, problems = kept.glance()
    if is_verifying and not problems:
        problems = verify_bundle(kept.path)
    try:
        at = describe(run)
    except (KeyError, TypeError, ValueError, IndexError):
        at, problems = "", problems or ["run.json tells no position"]
    row = {"number": kept.number, "path": str(kept.path), "made": run.get("written"), "at": at, "best": run.get("best")}
    return row | {"value": kept.number_of(run.get("best")), "size": size, "problems": problems}


def _forget_lone_gradients(one: Bundle, other: Bundle) -> None:
    """Of a parameter only one of the two may have gradients: those of the other would have been cleared unread."""
    kept = [
        {
            name: found["module"].get("grads", {})
            for name, found in bundle.documents.get("state", {}).get("fields", {}).items()
            if "module" in found
        }
        for bundle in (one, other)
    ]
    names = [{(name, key) for name, grads in by_name.items() for key in grads} for by_name in kept]
    for bundle, by_name, lone in zip((one, other), kept, (names[0] - names[1], names[1] - names[0]), strict=True):
        for name, key in lone:
            (path,) = by_name[name].pop(key).values()
            del bundle.tensors[VALUES][path]


def _by_field(bundle: Bundle) -> Bundle:
    """The same, with the tensors and the values of each field of State together; `rng`, and `run` for the rest."""
    documents = dict(bundle.documents)
    state, run = documents.pop("state", {}), documents.pop("run", {})
    kept = {name: run[name] for name in _OF_RUN if name in run}
    if isinstance(kept.get("limit"), dict):  # the seconds that were left
        kept["limit"] = {name: value for name, value in kept["limit"].items() if name != "left"}
    kept["history"] = [{k: v for k, v in row.items() if k != "seconds"} for row in kept.get("history", ())]
    values = {name: _plain(value) for name, value in state.get("fields", {}).items()}
    loaders = _plain(run.get("loaders", {}))
    found = Bundle(
        documents={**values, **loaders, "rng": _plain(state.get("generators", {})), "run": kept, **documents}
    )
    for group, tensors in bundle.tensors.items():
        for name, tensor in tensors.items():
            field, inner = (group, name) if group != VALUES else _split(name)
            found.tensors.setdefault(field, {})[inner] = tensor
    return found


def _split(name: str) -> tuple[str, str]:
    """The field that a tensor belongs to, and its name there."""
    field, _, inner = name.removeprefix(f"{LOADERS}.").partition(".")
    return field, inner


def _plain(packed: Any) -> Any:
    """Packed values without the words that say of what type they were."""
    if isinstance(packed, list):
        return [_plain(each) for each in packed]
    if not isinstance(packed, Mapping):
        return packed
    word, inner = next(iter(packed.items()), ("", None))
    if word in ("dict", "ordered", "counter") and isinstance(inner, list):
        return {str(_plain(key)): _plain(value) for key, value in inner}
    if len(packed) == 1 and word in ("value", "stateful", "module", "optimizer", "tuple", "state"):
        return _plain(inner)
    return {name: _plain(value) for name, value in packed.items()}


def _ordered(found: list[Difference], fields: list[str]) -> Iterator[tuple[str, Difference]]:
    """The differences, those of one field together."""
    named = [(each.file.removesuffix(".safetensors").removesuffix(".json"), each) for each in found]
    return iter(sorted(named, key=lambda pair: fields.index(pair[0])))


def _show_differences(rows: list[dict[str, Any]]) -> None:
    columns = {"field": "cyan", "name": "", "first": "", "second": "", "unequal": "yellow", "largest": "yellow"}
    shown, last = [], None
    for row in rows:
        cells = ("-" if row["first"] is None else row["first"], "-" if row["second"] is None else row["second"])
        shown.append(
            ("" if row["field"] == last else row["field"], row["name"], *cells, row["unequal"], row["largest"])
        )
        last = row["field"]
    answers.show_table(columns, shown, fold=False)


def _size(size: int) -> str:
    number, units = float(size), ["B", "kB", "MB", "GB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.3g} {units[0]}" if units[0] != "B" else f"{size} B"


def _state(problems: list[str], is_read: bool) -> str:
    return f"damaged: {problems[0]}" if problems else "whole" if is_read else "complete"
