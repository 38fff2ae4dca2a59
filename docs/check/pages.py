"""Write what the pages show of the registry and of kills.json: `python docs/check/pages.py`. Tests compare them.

Only what stands between `<!-- check: NAME -->` and `<!-- end -->` is written; the prose around it is by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from words import BUGS, NEEDS, SHARED, SYNONYMS, linked

from kills import SUITES, mutants
from regard.check.registry import Property, all_properties

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORD = HERE / "kills.json"
ALARMS = HERE / "false_alarms.json"
PAGES = (HERE / "properties.md", HERE / "kill-matrix.md", HERE / "how-we-know.md", ROOT / "README.md")

MARKED = re.compile(r"<!-- check: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
MOST = 8  # names of mutants in a line


class Pages:
    """The parts that are generated.

    Args:
        record: what kills.py wrote.
        alarms: what the runs on right implementations found, if that is recorded.
    """

    def __init__(self, record: dict[str, Any], alarms: dict[str, Any] | None = None) -> None:
        self.record = record
        self.alarms = alarms
        self.mutants = {(each.suite, each.name): each for each in mutants()}

    def part(self, name: str) -> str:
        """The text between the markers of this name."""
        kind, _, suite = name.partition("-")
        if kind in ("properties", "matrix", "mutants", "alone") and suite in SUITES:
            return str(getattr(self, f"_{kind}")(suite))
        parts = {
            "rows": self._rows, "summary": self._summary, "misnamed": self._misnamed, "count": self._count,
            "false-alarms": self._false_alarms, "record": self._record,
        }  # fmt: skip
        return parts[name]()

    def filled(self, text: str) -> str:
        """A page with every generated part written anew."""
        return MARKED.sub(lambda found: f"<!-- check: {found[1]} -->\n{self.part(found[1])}\n<!-- end -->", text)

    # -- what is in the record -------------------------------------------------------------------------------------

    def kills(self, prop: Property) -> list[str]:
        """The mutants that fail it."""
        return [name for name, one in self.record["mutants"][prop.suite].items() if prop.name in one["failed"]]

    def alone(self, prop: Property) -> list[str]:
        """The mutants that fail it and nothing else."""
        every = self.record["mutants"][prop.suite]
        return [name for name in self.kills(prop) if every[name]["failed"] == [prop.name]]

    def named(self, suite: str, name: str) -> str:
        """How the report names a mutant: "itself", "synonym", "another" or "nothing"."""
        given = self.record["mutants"][suite][name]["named"]
        if given == name:
            return "itself"
        return "synonym" if given in SYNONYMS.get(name, {}) else "another" if given else "nothing"

    def counted(self) -> dict[str, int]:
        """How many mutants there are, are caught, and are named how."""
        every = [(suite, name) for suite in SUITES for name in self.record["mutants"][suite]]
        names = [self.named(*one) for one in every]
        counts = {word: names.count(word) for word in ("itself", "synonym", "another", "nothing")}
        caught = sum(bool(self.record["mutants"][suite][name]["failed"]) for suite, name in every)
        return counts | {"mutants": len(every), "caught": caught, "right": counts["itself"] + counts["synonym"]}

    # -- properties.md ---------------------------------------------------------------------------------------------

    def _properties(self, suite: str) -> str:
        lines: list[str] = []
        group = ""
        for prop in all_properties(suite):
            if prop.group != group:
                group = prop.group
                lines += [f"### {group[0].upper()}{group[1:]}", ""]
            lines += [*self._described(prop), ""]
        return "\n".join(lines).rstrip()

    def _described(self, prop: Property) -> list[str]:
        said = [f"#### `{prop.name}`", "", prop.says, "", f"Catches: {linked(prop.bug)}", ""]
        notes = [f"Needs: {'; '.join(NEEDS[need] for need in prop.needs)}."] if prop.needs else []
        if prop.essential:
            notes.append("Essential: a subject that skips it is not OK.")
        if prop.thorough:
            notes.append("Runs only with `thorough=True` or `--thorough`.")
        if prop.rows:
            notes.append(f"{'Row' if len(prop.rows) == 1 else 'Rows'} {', '.join(map(str, prop.rows))}.")
        return [*said, " ".join([*notes, self._killing(prop)])]

    def _killing(self, prop: Property) -> str:
        found, alone = self.kills(prop), self.alone(prop)
        if not found:
            return "Kills no mutant of the record."
        if alone == found:
            return f"Kills {_plural(len(found), 'mutant')} that nothing else kills: {_names(found)}."
        aimed = [name for name in found if self.mutants[prop.suite, name].aims == prop.name]
        shown = found if len(found) <= MOST else (aimed or found)[:MOST]
        rest = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        only = f"; it alone kills {_names(alone)}" if alone else ""
        return f"Kills {_plural(len(found), 'mutant')}: {_names(shown)}{rest}{only}."

    def _rows(self) -> str:
        lines = ["| | bug | property | mutants |", "|---|---|---|---|"]
        for row, words in BUGS.items():
            found = [f"[`{prop.name}`](#{prop.name})" for prop in all_properties() if row in prop.rows]
            count = sum(row in each.rows for each in self.mutants.values())
            lines.append(f"| {row} | {linked(words)} | {', '.join(found)} | {count} |")
        return "\n".join(lines)

    # -- kill-matrix.md --------------------------------------------------------------------------------------------

    def _summary(self) -> str:
        counts = self.counted()
        properties = [prop for prop in all_properties() if self.record["properties"].get(prop.suite)]
        own = sum(bool(self.alone(prop)) for prop in properties)
        lines = ["| suite | mutants | caught | named right |", "|---|---|---|---|"]
        for suite in SUITES:
            some = self.record["mutants"][suite]
            right = sum(self.named(suite, name) in ("itself", "synonym") for name in some)
            lines.append(f"| {suite} | {len(some)} | {sum(bool(one['failed']) for one in some.values())} | {right} |")
        lines += [
            f"| all | {counts['mutants']} | {counts['caught']} | {counts['right']} |",
            "",
            f"Of {counts['right']} that are named right, {counts['itself']} are named as what they are and "
            f"{counts['synonym']} by a synonym, declared with its reason. Of {len(properties)} properties, {own} have "
            "a mutant that no other property catches.",
        ]
        return "\n".join(lines)

    def _matrix(self, suite: str) -> str:
        properties = all_properties(suite)
        columns = _grouped(properties)
        numbers = {prop.name: n for n, prop in enumerate(properties, 1)}
        lines = [
            f"- {group}: {', '.join(f'{numbers[prop.name]} `{prop.name}`' for prop in some)}"
            for group, some in columns.items()
        ]
        lines += ["", "```text"]
        for digit in (0, 1):  # of the columns' numbers, one above the other
            lines.append("  ".join("".join(f"{numbers[p.name]:2d}"[digit] for p in some) for some in columns.values()))
        for heading, names in self._in_groups(suite).items():
            lines += [f"{heading}:"] if heading else []
            lines += [f"{self._cells(suite, name, columns)}  {name}" for name in names]
        return "\n".join([*lines, "```"])

    def _cells(self, suite: str, name: str, columns: dict[str, list[Property]]) -> str:
        one = self.record["mutants"][suite][name]

        def mark(prop: Property) -> str:
            return "x" if prop.name in one["failed"] else " " if prop.name in one["skipped"] or prop.thorough else "."

        return "  ".join("".join(map(mark, some)) for some in columns.values())

    def _in_groups(self, suite: str) -> dict[str, list[str]]:
        """Heading -> mutants: the group of the property that each is aimed at, where it says."""
        group_of = {prop.name: prop.group for prop in all_properties(suite)}
        found: dict[str, list[str]] = {group: [] for group in _grouped(all_properties(suite))} | {"": []}
        for name in self.record["mutants"][suite]:
            found[group_of.get(self.mutants[suite, name].aims, "")].append(name)
        return {group: names for group, names in found.items() if names}

    def _mutants(self, suite: str) -> str:
        lines = ["| mutant | what is wrong | rows | fails | named |", "|---|---|---|---|---|"]
        for names in self._in_groups(suite).values():
            for name in names:
                wrong, one = self.mutants[suite, name], self.record["mutants"][suite][name]
                named = {"itself": "itself", "nothing": "-"}.get(self.named(suite, name), f"`{one['named']}`")
                rows = ", ".join(map(str, wrong.rows))
                lines.append(f"| `{name}` | {_cell(wrong.says)} | {rows} | {len(one['failed'])} | {named} |")
        return "\n".join(lines)

    def _misnamed(self) -> str:
        synonyms, others = [], []
        for suite in SUITES:
            for name, one in self.record["mutants"][suite].items():
                how = self.named(suite, name)
                if how == "synonym":
                    synonyms.append(f"- `{name}` is named `{one['named']}`: {SYNONYMS[name][one['named']]}.")
                elif how != "itself":
                    others.append(f"- `{name}` is named " + (f"`{one['named']}`." if one["named"] else "by nothing."))
        lines = ["Synonyms:", "", *(synonyms or ["- none"]), "", "Named wrongly, or not at all:", ""]
        return "\n".join([*lines, *(others or ["- none"])])

    def _alone(self, suite: str) -> str:
        own, shared = [], []
        every = self.record["mutants"][suite]
        for prop in all_properties(suite):
            if alone := self.alone(prop):
                own.append(f"- `{prop.name}`: {_names(alone)}")
                continue
            found = self.kills(prop)
            also = {
                other.name: sum(other.name in every[name]["failed"] for name in found)
                for other in all_properties(suite) if other != prop
            }  # fmt: skip
            most = max(also, key=lambda name: also[name])
            seen = f"{len(found)} | {also[most]}, by `{most}`" if found else "0 | "
            shared.append(f"| `{prop.name}` | {seen} | {SHARED.get(prop.name, SHARED[prop.group])} |")
        return "\n".join([
            "With a mutant that they alone catch:", "", *(own or ["- none"]), "", "Without one:", "",
            "| property | mutants it catches | of which another does | kept because |", "|---|---|---|---|", *shared,
        ])  # fmt: skip

    # -- sentences -------------------------------------------------------------------------------------------------

    def _count(self) -> str:
        counts = self.counted()
        return (
            f"The checker is itself checked: of {counts['mutants']} deliberately wrong implementations, each with one "
            f"bug, it catches {counts['caught']} and names the bug of {counts['right']} "
            "([which property catches what](docs/check/kill-matrix.md))."
        )

    def _record(self) -> str:
        return (
            f"The record: `kills.json`, {self.record['date']}, {self.record['versions']}, seed {self.record['seed']}, "
            f"{self.record['seconds']:.0f} seconds on one thread."
        )

    def _false_alarms(self) -> str:
        if self.alarms is None:
            return ""
        runs, subjects, seeds, alarms = (_number(self.alarms[key]) for key in ("runs", "subjects", "seeds", "alarms"))
        return (
            f"**It does not cry wolf.** {runs:,} recorded checks of {_plural(subjects, 'right implementation')}, "
            f"with {_plural(seeds, 'seed')}: "
            f"{_plural(alarms, 'false alarm')} ([the record](false_alarms.json))."
        )


def _grouped(properties: tuple[Property, ...]) -> dict[str, list[Property]]:
    found: dict[str, list[Property]] = {}
    for prop in properties:
        found.setdefault(prop.group, []).append(prop)
    return found


def _number(given: Any) -> int:
    return given if isinstance(given, int) else len(given)


def _plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def read() -> Pages:
    """The pages of the record that is there."""
    alarms = json.loads(ALARMS.read_text(encoding="utf-8")) if ALARMS.exists() else None
    return Pages(json.loads(RECORD.read_text(encoding="utf-8")), alarms)


def main() -> None:
    """Write every page anew."""
    pages = read()
    for path in PAGES:
        path.write_text(pages.filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
