"""The commands that ask a Learner itself: what it is made of, whether it can run, why something is as it is."""

import click

from learner import answers
from learner.answers import FINDING, as_json
from learner.loading import NotBuilt, load, trained
from stages import Finding


@click.command()
@click.argument("object")
@click.option("--mermaid", is_flag=True, help="The tree as a Mermaid flowchart.")
@as_json
def graph(object: str, mermaid: bool, as_json: bool) -> None:
    """Show the tree: slots, hooks, and what each reads and writes."""
    from stages.draw import draw_mermaid

    learner = load(object)
    if as_json:
        nodes = [{"id": node, **facts} for node, facts in learner.graph.nodes(data=True)]
        edges = [{"from": a, "to": b, **facts} for a, b, facts in learner.graph.edges(data=True)]
        answers.show_json({"nodes": nodes, "edges": edges})
    elif mermaid:
        click.echo(draw_mermaid(learner.assembly))
    else:
        answers.show_tree(repr(learner))
        answers.show_next("fields", object)


@click.command()
@click.argument("object")
@as_json
def fields(object: str, as_json: bool) -> None:
    """List the fields: type, scope, who writes and who reads each."""
    from stages.tables import short_names

    rows = load(object).fields
    if as_json:
        answers.show_json(rows)
        return
    short = short_names(path for row in rows for path in (*row.written_by, *row.read_by))
    columns = {"name": "cyan", "type": "", "scope": "green", "written by": "", "read by": "", "description": "dim"}

    def listed(paths: tuple[str, ...]) -> str:
        return ", ".join(dict.fromkeys(short[path] for path in paths))

    answers.show_table(
        columns, [(r.name, r.type, r.scope, listed(r.written_by), listed(r.read_by), r.description) for r in rows]
    )
    answers.show_next("graph", object)


@click.command()
@click.argument("object")
@as_json
@click.pass_context
def check(ctx: click.Context, object: str, as_json: bool) -> None:
    """Check a tree before it runs. Exit code 1 if it cannot run."""
    try:
        learner = load(object)
    except NotBuilt as refused:
        findings: list[Finding] = list(refused.findings)
        told = f"{object} cannot run."
    else:
        findings = learner.check()
        stages = sum(place.kind == "stage" for place in learner.assembly.places)
        told = f"{object} can run: {stages} stages, {len(learner.hooks)} hooks, {len(learner.state.specs)} fields."
    failed = any(finding.severity == "error" for finding in findings)
    if as_json:
        answers.show_json({"ok": not failed, "findings": findings})
    else:
        for finding in findings:
            style = {"error": "red", "warning": "yellow"}.get(finding.severity, "")
            answers.show(f"{finding.severity}: {finding.kind}", style)
            answers.show(f"  {finding.message}")
        answers.show(told, "red" if failed else "green")
        if not failed:
            answers.show_next("graph", object)
    ctx.exit(FINDING if failed else 0)


def _batches(command: answers.Command) -> answers.Command:
    """The option `--batches`, of what is asked of a Learner that has trained."""
    given = click.IntRange(min=1)
    return click.option("--batches", type=given, metavar="N", help="Train it on so many batches first.")(command)


@click.command()
@click.argument("object")
@click.argument("name")
@_batches
@as_json
def explain(object: str, name: str, batches: int | None, as_json: bool) -> None:
    """Explain a slot of a tree, or why a parameter such as model.0.weight did not change."""
    told = trained(object, batches).explain(name)
    if as_json:
        answers.show_json({"name": name, "told": told})
        return
    answers.show(told)
    answers.show_next("fields" if "." in name else "graph", object)


@click.command()
@click.argument("object")
@_batches
@as_json
def aliases(object: str, batches: int | None, as_json: bool) -> None:
    """List tensors that have their memory in common: tied weights, and copies that are none."""
    found = trained(object, batches).aliases()
    if as_json:
        answers.show_json([row._asdict() for row in found])
        return
    if found:
        answers.show_table({"names": "cyan", "kind": ""}, [(", ".join(row.names), row.kind) for row in found])
    else:
        answers.show("No two tensors have their memory in common.", "green")
    answers.show_next("fields", object)


COMMANDS = (graph, fields, check, explain, aliases)
