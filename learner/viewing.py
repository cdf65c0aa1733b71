"""The command `learner view`: the log of a run as a page."""

import click

from learner import answers
from learner.answers import as_json
from state import ChangeLog
from state.runs import find_run


@click.command()
@click.argument("run")
@click.option("--out", type=click.Path(dir_okay=False), help="The file. [default: log.html beside the log]")
@as_json
def view(run: str, out: str | None, as_json: bool) -> None:
    """Write the log of a run as one HTML file, to look at in a browser."""
    path = find_run(run)
    page = ChangeLog.open(run).to_html(out or (path if path.is_dir() else path.parent) / "log.html")
    if as_json:
        answers.show_json(page)
        return
    answers.show(str(page.path))
    count = {name: f"{number:,}" for name, number in page.facts.items()}
    shown = f"records: {count['records']}, rounds: {count['rounds']}, shown: {count['rounds_shown']}"
    answers.show(f"  {page.size / 1e6:.2f} MB; {shown}, deviating: {count['rounds_deviating']}")
    found = f"violations: {count['violation']}, not finite: {count['not_finite']}"
    is_wrong = bool(page.facts["violation"] or page.facts["not_finite"])
    answers.show(f"  {found}, not ended well: {count['ended']}", "red" if is_wrong else "")
    for left_out in page.left_out:
        answers.show(f"  without {left_out}", "dim")
    if page.field is None or page.position is None:
        answers.show_next("violations" if page.facts["violation"] else "log", run)
    elif page.position.epoch is None:
        answers.show_next("history", run, page.field)
    else:
        answers.show_next("blame", run, page.field, "--at", answers.place(page.position))
