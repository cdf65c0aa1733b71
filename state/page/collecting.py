"""Collecting: what a page shows of a log, within limits, as plain data for JSON.

The log is read twice: once for all that is counted and thinned out, once for what the changes that are shown replaced.
"""

from dataclasses import dataclass
from typing import Any

from state.latest import Latest
from state.page.findings import ENDED, NOT_FINITE, VIOLATION
from state.page.limits import Limits
from state.page.naming import Names
from state.page.rounds import Kind, Round
from state.page.scanning import BUCKETS, Scan, scan
from state.position import Place
from state.records import FORGETS, Record, Records
from state.runs import LOG_FILE
from state.stores import Segment

FORMAT = 1


@dataclass(frozen=True)
class Collected:
    """What a page shows.

    Attributes:
        data: for JSON; the scripts in this directory read it.
        left_out: what it leaves out, in words.
        facts: how much there is and how much is shown, by name.
        first: the first change that nobody declared, else the first value that is not finite, if there is any.
    """

    data: dict[str, Any]
    left_out: tuple[str, ...]
    facts: dict[str, int]
    first: Record | None


def collect(records: Records, limits: Limits) -> Collected:
    """Read a log for its page."""
    return _Collector(records, limits, scan(records, limits)).collected()


class _Collector:
    def __init__(self, records: Records, limits: Limits, scan: Scan) -> None:
        self._records = records
        self._limits = limits
        self._scan = scan
        self._names = Names(records, limits.text)
        self._shapes = list(scan.rounds.shapes)
        self._regular = scan.rounds.regular()
        self._cut = 0

    def collected(self) -> Collected:
        scan, rounds = self._scan, self._scan.rounds.made
        chosen = self._chosen()
        findings = {sort: self._first_and_last(found) for sort, found in scan.findings.items()}
        wanted = {seq for made in chosen for seq in self._within(made)}
        wanted.update(seq for found in findings.values() for seq, _ in found)
        data: dict[str, Any] = {
            "format": FORMAT,
            "name": self._names.text(self._records.store.name.removesuffix(f"/{LOG_FILE}")),
            "records": scan.count,
            "size": scan.size,
            "made": len(rounds),
            "times": [time / 1e9 for time in scan.times],
            "epochs": list(scan.epochs.items())[:: max(1, len(scan.epochs) // 100)],
            "shapes": self._shapes_shown(chosen),
            "rounds": [[m.shape, m.place, sorted(m.notes), self._within(m), len(m.segments)] for m in chosen],
            "segments": self._segments(wanted),
            "findings": {sort: [len(scan.findings[sort]), found] for sort, found in findings.items()},
            "heat": self._heat(),
            "lines": self._lines(),
            "touches": self._touches(),
        }
        left_out = self._left_out(chosen, findings)
        data |= self._names.tables() | {"left_out": left_out}
        sorts = {sort.replace(" ", "_"): len(scan.findings.get(sort, ())) for sort in (VIOLATION, ENDED, NOT_FINITE)}
        deviating = sum(self._deviates(made) for made in rounds)
        facts = {"records": scan.count, "rounds": len(rounds), "rounds_shown": len(chosen)}
        return Collected(data, tuple(left_out), facts | {"rounds_deviating": deviating} | sorts, self._first())

    def _first(self) -> Record | None:
        for sort in (VIOLATION, NOT_FINITE):
            for seq, index in self._scan.findings.get(sort, ()):
                segment = next(self._records.store.segments(before=seq + 1, backward=True))
                return self._records.unfold(segment)[index]
        return None

    def _deviates(self, made: Round) -> bool:
        return made.shape not in self._regular or bool(made.notes)

    def _chosen(self) -> list[Round]:
        """The rounds to show: the first and the last of each kind, one of each regular shape, and what deviates."""
        limits, rounds = self._limits, self._scan.rounds.made
        of_kind: dict[Kind, list[int]] = {}
        of_shape: dict[tuple[int, frozenset[str]], list[int]] = {}
        for number, made in enumerate(rounds):
            of_kind.setdefault(self._shapes[made.shape].kind, []).append(number)
            of_shape.setdefault((made.shape, made.notes), []).append(number)
        chosen = {n for numbers in of_kind.values() for n in (*numbers[: limits.edge], *numbers[-limits.edge :])}
        deviating = limits.deviating
        for (shape, notes), numbers in sorted(of_shape.items(), key=lambda item: len(item[1])):
            if shape in self._regular and not notes:
                chosen.add(numbers[0])
            else:
                examples = numbers[: min(limits.alike, deviating)]
                deviating -= len(examples)
                chosen.update(examples)
        return [rounds[number] for number in sorted(chosen)]

    def _within(self, made: Round) -> tuple[int, ...]:
        """The segments of a round that are shown."""
        return tuple(self._first_and_last(list(made.segments), self._limits.segments))

    def _first_and_last(self, found: list[Any], most: int | None = None) -> list[Any]:
        most = self._limits.findings if most is None else most
        return found if len(found) <= most else [*found[: most - most // 2], *found[len(found) - most // 2 :]]

    def _segments(self, wanted: set[int]) -> list[list[Any]]:
        """The segments to show: [seq, time, place, template, values, what each replaced].

        What is not shown is gone past by the last segment of each template: it has the last writes.
        """
        records, latest, most = self._records, Latest(), self._limits.records
        marks = records.marks()
        waiting: dict[int, Segment] = {}
        telling: dict[int, bool] = {}
        shown: list[list[Any]] = []
        for segment in records.segments():
            seq, t_ns, place, template, _ = segment
            if template not in telling:
                telling[template] = any(number in marks for number in records.slots_of(template))
            if seq not in wanted and not telling[template]:
                waiting[template] = segment
                continue
            for passed in sorted(waiting.values(), key=lambda each: each[0]):
                for record in records.unfold(passed):
                    latest.add(record)
            waiting.clear()
            before: list[Any] = []
            unfolded = records.unfold(segment)
            for record in unfolded:
                before.append(self._before(latest, record))
                latest.add(record)
            if seq in wanted:
                self._cut += max(0, len(unfolded) - most)
                values = [self._names.value(record.value) for record in unfolded[:most]]
                shown.append([seq, t_ns / 1e9, place, self._names.template(template), values, before[:most]])
        return shown

    def _before(self, latest: Latest, record: Record) -> Any:
        if record.slot.kind != "write":
            return None
        replaced = latest.before(record)
        return self._names.value(record.slot.default if replaced is None else replaced.value)

    def _shapes_shown(self, chosen: list[Round]) -> list[list[Any]]:
        """[number, cycle, phase, is regular, how many rounds, first place, last place, slots] of each shape."""
        counts = [0] * len(self._shapes)
        ends: dict[int, tuple[Place, Place]] = {}
        for made in self._scan.rounds.made:
            counts[made.shape] += 1
            ends[made.shape] = ends.get(made.shape, (made.place,))[0], made.place
        rows: list[list[Any]] = []
        for number in sorted({made.shape for made in chosen}):
            (cycle, phase), slots = self._shapes[number]
            named = [self._names.slot(slot) for slot in slots[: self._limits.records]]
            rows.append([number, cycle, phase, number in self._regular, counts[number], *ends[number], named])
        return rows

    def _heat(self) -> list[list[Any]]:
        """[slot, its records in each part of the run], for those slots that have most."""
        totals: dict[int, list[int]] = {}
        for template, counts in self._scan.heat.items():
            for number in self._records.slots_of(template):
                sums = totals.setdefault(number, [0] * BUCKETS)
                totals[number] = [a + b for a, b in zip(sums, counts, strict=True)]
        most = sorted(totals, key=lambda number: -sum(totals[number]))[: 4 * self._limits.slots]
        return [[self._names.slot(number), totals[number]] for number in sorted(most)]

    def _touches(self) -> list[int]:
        """The slots of what actors may change on the way, of which there is no record."""
        found = [number for number, slot in enumerate(self._records.slots) if slot.kind == "touch"]
        return [self._names.slot(number) for number in found[: self._limits.slots]]

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        for number, line in self._scan.lines.items():
            points, odd = line.points(self._limits.points)
            runs = [
                [a, b, n, self._names.value(self._records.value("write", value)), place]
                for a, b, n, value, place in line.runs
            ]
            told = {"slot": self._names.slot(number), "count": line.count, "missing": line.missing}
            lines.append(told | {"norms": line.norms, "points": points, "odd": odd, "runs": runs})
        return lines

    def _left_out(self, chosen: list[Round], findings: dict[str, list[Any]]) -> list[str]:
        rounds, shapes = self._scan.rounds.made, {made.shape for made in chosen}
        odd = sum(map(self._deviates, rounds))
        odd_missing = odd - sum(map(self._deviates, chosen))
        regular = len(rounds) - odd
        regular_missing = len(rounds) - len(chosen) - odd_missing
        thinned = sum(line.missing > 0 for line in self._scan.lines.values())
        store = self._records.store
        gone = store.count() - self._scan.count if any(slot.kind == "resume" for slot in self._records.slots) else 0
        told = [
            (gone, f"records that were rolled back, as the run went on from a checkpoint before them: {gone:,}"),
            (store.dropped, f"segments that were let go of: {store.dropped:,}. {FORGETS}"),
            (regular_missing, f"regular rounds in the middle of the run: {regular_missing:,} of {regular:,}"),
            (odd_missing, f"rounds that deviate: {odd_missing:,} of {odd:,}"),
            (len(self._shapes) - len(shapes), f"shapes of rounds: {len(self._shapes) - len(shapes):,}"),
            (self._cut, f"records of long rounds: {self._cut:,}"),
            (thinned, f"values in the middle of histories, which are thinned out: {thinned:,} histories"),
            (len(self._scan.unlined), f"histories of pairs of actor and field: {len(self._scan.unlined):,}"),
        ]
        for sort, found in findings.items():
            missing = len(self._scan.findings[sort]) - len(found)
            told.append((missing, f"records of the sort {sort!r}: {missing:,} of {len(self._scan.findings[sort]):,}"))
        return [text for missing, text in told if missing > 0]
