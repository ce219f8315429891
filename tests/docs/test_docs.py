"""The docs say what there is: every command, setting and finding is named, every link resolves, every example of the rule is right."""

import re
from pathlib import Path
from runpy import run_path
from typing import get_args

import oracle
import pytest
from typer.main import get_command

from featurestore import config, definitions
from featurestore.cli import commands as featurestore_commands
from featurestore.store import FeatureStore
from lineage.cli import commands as lineage_commands
from lineage.findings import FINDINGS, RULES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
APPS = {"featurestore": featurestore_commands(), "lineage": lineage_commands()}


def reference(name):
    return (DOCS / "reference" / name).read_text("utf-8")


def table(text, heading):
    """The cells of the first table whose first header is `heading`, without the header."""
    body = text[text.index(f"| {heading} |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in body]


def commands(name, command):
    """Every command with its parents, such as ``featurestore token bind``."""
    for word, child in getattr(command, "commands", {}).items():
        yield from commands(f"{name} {word}", child)
    if not getattr(command, "commands", {}):
        yield name


def command_named(name):
    """The command of a whole name, such as ``featurestore token bind``."""
    program, *words = name.split()
    command = get_command(APPS[program])
    for word in words:
        command = command.commands[word]
    return command


def anchors(page):
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page):
    """A link names a file that is there, and a heading of it if it names one."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        is_elsewhere = "://" in link or link.startswith("mailto:")
        if not is_elsewhere and (not target.exists() or (anchor and anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("program", APPS)
def test_every_command_is_documented(program):
    """Each command stands in the reference with its whole name; no other command stands there."""
    known = set(commands(program, get_command(APPS[program])))
    documented = re.findall(rf"\| `({program}(?: [a-z][a-z-]*)+)", reference("cli.md"))
    assert known == set(documented)


@pytest.mark.parametrize("program", APPS)
def test_every_option_in_the_reference_exists(program):
    """A row names only options that its command has."""
    unknown = []
    for name, row in re.findall(rf"\| `({program}(?: [a-z][a-z-]*)+)(.*)", reference("cli.md")):
        known = {option for parameter in command_named(name).params for option in parameter.opts}
        unknown += [
            f"{name} {option}" for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row) if option not in known
        ]
    assert unknown == []


def test_every_command_shown_exists():
    """A command line in a code block, or in code within a sentence, begins with a command that there is."""
    known = {name for program, app in APPS.items() for name in commands(program, get_command(app))}
    groups = {name.rsplit(" ", 1)[0] for name in known}
    shown = re.compile(r"(?:^|[`$])\s*((?:featurestore|lineage)(?: [a-z][a-z-]*)+)", re.MULTILINE)
    unknown = []
    for page in PAGES:
        for line in shown.findall(page.read_text("utf-8")):
            words = line.split()
            beginnings = {" ".join(words[:count]) for count in (2, 3)}
            if not beginnings & known and line not in groups:
                unknown.append(f"{page.name}: {line}")
    assert unknown == []


def test_every_setting_is_documented():
    """Each section has a heading, and under it each key with its default; there is no other key."""
    page = reference("settings.md")
    sections = dict(text.split("]\n", 1) for text in page.partition("\n## Environment")[0].split("\n## [")[1:])
    settings = {
        "project": config.ProjectSettings,
        "registry": config.RegistrySettings,
        "offline": config.OfflineSettings,
        "online": config.OnlineSettings,
        "online.tls": config.OnlineTlsSettings,
        "sources": config.SourceSettings,
        "serving": config.ServingSettings,
        "serving.tls": config.TlsSettings,
        "serving.jwt": config.JwtFileSettings,
    }
    assert {"root", "connections", *(s for s in settings if "." not in s)} == set(config.Settings.__struct_fields__)
    documented = {name: [row[0].strip("`") for row in table(text, "key")] for name, text in sections.items()}
    assert documented == {
        name: [field for field in section.__struct_fields__ if f"{name}.{field}" not in settings]
        for name, section in settings.items()
    }


def test_every_finding_is_documented():
    """Each finding has a heading, each rule of it a row with code, name and severity as they are."""
    page = reference("findings.md")
    assert [run.__name__ for run in FINDINGS] == re.findall(r"^## (\w+)$", page, re.MULTILINE)
    rows = [re.split(r"\s*\|\s*", line)[1:6] for line in page.splitlines() if line.startswith("| LN")]
    assert [row[:3] for row in rows] == [[rule.code, rule.name, rule.severity] for rule in RULES]
    assert all(all(row) for row in rows)


def test_the_sources_shown_can_be_defined(tmp_path):
    """Each Python block of the page on sources runs as it is, and every kind of source is in its table."""
    page = (DOCS / "how-to" / "read-a-source.md").read_text("utf-8")
    made = set()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        (tmp_path / "features.py").write_text(block)
        made |= {type(value) for value in run_path(str(tmp_path / "features.py")).values()}
    kinds = {kind.__name__ for kind in get_args(definitions.Source)}
    assert {kind.__name__ for kind in made} >= {"ParquetSource", "CSVSource", "PostgresSource", "SQLSource"}
    assert set(re.findall(r"^\| `(\w+)\(", page, re.MULTILINE)) == kinds


def test_every_method_of_the_facade_is_documented():
    """What a user may call on a FeatureStore is on the page of the Python reference."""
    names = {name for name in vars(FeatureStore) if not name.startswith("_")}
    assert {name for name in names if f"`{name}" not in reference("python.md")} == set()


def test_the_example_of_the_rule_is_right():
    """What time.md says a spine row gets is what the oracle of the point-in-time rule gives."""
    page = (DOCS / "concepts" / "time.md").read_text("utf-8")
    rows = [
        {
            "origin": "JFK",
            "event": minutes(event),
            "created": minutes(created),
            "seq": int(seq),
            "temp": temp.split()[0],
        }
        for _, event, created, seq, temp in table(page, "row")
    ]
    for time, as_known, latest, _ in table(page, "t"):
        for knowledge, told in (("as_known", as_known), ("latest", latest)):
            expected = answer(rows, minutes(time), knowledge)
            assert told == expected, f"{knowledge} at {time}"


def answer(rows, t, knowledge):
    ((row, status),) = oracle.join(
        [(("JFK",), t)], rows, ["origin"], ttl=240, knowledge=knowledge, position=None, backfilled_until=None
    )
    return row["temp"] if row else f"nothing: {status.replace('_', ' ')}"


def minutes(clock):
    hour, minute = clock.split(":")
    return 60 * int(hour) + int(minute)
