"""All silent bugs, by the mechanism that they are for; what was left out; and how many are found."""

from collections.abc import Iterator

from tests.silent_bugs import declared_access, fingerprints, graph_checks, log_queries, scopes
from tests.silent_bugs.harness import NOTHING, Bug, bugs_in

MECHANISMS = {
    "Declared access": declared_access,
    "Identity, versions, fingerprints": fingerprints,
    "Scopes": scopes,
    "Questions to the log": log_queries,
    "Checks of the graph": graph_checks,
}

BUGS = [bug for module in MECHANISMS.values() for bug in bugs_in(module)]

LEFT_OUT = {"6": "a bypassed wrapper lets the ranks drift (x-jxmnop): it takes two processes"}

STANDS_IN = {
    "5": "written from what the report is about, freezing the first stages, not from its code",
    "7": "a change of dtype and back stands in for a move between devices",
    "9": "an optimizer of our own that writes into a copy stands in for the kernel",
    "10": "an optimizer of our own that remembers its parameters stands in for the compiled step",
    "12": "a module that switches autocast off inside stands in for the compiler",
    "15": "five short sequences stand in for fifty images",
    "17": "a hook that zeroes half of its copy stands in for the copy between two devices",
    "28": "one process that moves the scheduler twice stands in for two",
    "44": "a layer with one parameter stands in for Mamba-2",
}

FOUND = ("refused", "raised", "recorded", "asked", "prevented")


Row = tuple[str, ...]


def tables() -> Iterator[tuple[str, list[Row]]]:
    """A table for each mechanism, by its name, with one row for each bug."""
    head = ("no", "bug", "reports", "what plain PyTorch says", "what we say", "class")
    for name, module in MECHANISMS.items():
        bugs = bugs_in(module)
        rows = [(bug.number, bug.what, ", ".join(bug.sources), bug.plain, ours(bug), class_of(bug)) for bug in bugs]
        yield name, [head, *rows]


def ours(bug: Bug) -> str:
    """What is said of a bug: the first line, and what was asked."""
    if bug.said == "missed":
        return f"{NOTHING}. {bug.why}"
    shown = bug.line if bug.line.endswith((".", ")", "check", "weights")) else f"{bug.line.rstrip()} ..."
    asked = f"{bug.question} " * (bug.said == "asked")
    return f"{asked}`{shown}`" + f" {bug.why}" * (bug.said == "prevented")


def class_of(bug: Bug) -> str:
    """The class of a bug, and what it takes that is not the default: a level of the log, or `debug()`."""
    level = "" if bug.audit == "summary" else f', `audit="{bug.audit}"`'
    return bug.said + level + ", `learner.debug()`" * (bug.mode == "debug")


def counts() -> Iterator[Row]:
    """How many of the programs are found in which way; that no twin alarms is what a test wants."""
    total = len(BUGS)
    found = [bug for bug in BUGS if bug.said in FOUND]
    spoken = [bug for bug in found if bug.said != "prevented"]
    shares = {
        "refused before the first batch": [bug for bug in BUGS if bug.said == "refused"],
        "raised in the run": [bug for bug in BUGS if bug.said == "raised"],
        "warned of, or on record as wrong, without being asked": [bug for bug in BUGS if bug.said == "recorded"],
        "prevented: the loop does what was meant": [bug for bug in BUGS if bug.said == "prevented"],
        "pinned by a question to the log": [bug for bug in BUGS if bug.said == "asked"],
        "found, all together": found,
        "missed": [bug for bug in BUGS if bug.said == "missed"],
    }
    yield ("programs", "how many")
    yield from ((name, f"{len(bugs)} of {total}") for name, bugs in shares.items())
    yield ("alarms on clean twins", f"0 of {total}")
    placed = [bug for bug in spoken if bug.is_located is not None]
    named, located = sum(bool(bug.culprit) for bug in spoken), sum(bool(bug.is_located) for bug in placed)
    yield ("the first line that is printed names who it was", f"{named} of {len(spoken)}")
    yield ("and where its code stands, if that is a stage or hook of the program", f"{located} of {len(placed)}")


def reports() -> str:
    """The same by bug of the list: one is found only if every way to write it is."""
    numbers = {bug.number.rstrip("abc") for bug in BUGS}
    missed = {bug.number.rstrip("abc") for bug in BUGS if bug.said == "missed"}
    wholly = {n for n in missed if all(bug.said == "missed" for bug in BUGS if bug.number.rstrip("abc") == n)}
    return (
        f"The {len(BUGS)} programs show {len(numbers)} of the 30 bugs. Of these {len(numbers - missed)} are found in "
        f"whichever way they are written here, {len(missed - wholly)} in one way and not in another, "
        f"and {len(wholly)} in none."
    )
