"""How commands start: each loads its own part of its program, and reads plain arguments as typer would, without pydantic."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.core import TyperGroup
from typer.main import get_command

from featurestore.cli import PARTS as FEATURESTORE
from featurestore.cli import commands as featurestore_commands
from lineage.cli import PARTS as LINEAGE
from lineage.cli import commands as lineage_commands
from lineage.cli import main
from lineage.cli.start import NotPlainError, plain

SCRIPT = """
import importlib, sys
try: importlib.import_module(sys.argv[1]).main(sys.argv[2:])
except SystemExit: pass
print(*sys.modules, file=sys.stderr)
"""


def loaded(program, *arguments):
    """Run a command in a new process; return the names of the modules it imported, packages' own names included."""
    command = [sys.executable, "-c", SCRIPT, program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("part", [*LINEAGE, *FEATURESTORE], ids=lambda part: part.home)
def test_a_part_names_the_commands_that_its_module_has(part):
    app = part.load()
    if part.group:
        assert part.commands == ()
        return
    holder = typer.Typer()
    holder.add_typer(app)
    assert sorted(get_command(holder).commands) == sorted(part.commands)


def test_showing_and_planning_load_no_engine(project):
    place = ["--project", str(project)]
    loaded("featurestore.cli", "apply", str(project / "features.py"), *place)
    shown = loaded("featurestore.cli", "show", "weather", *place)
    assert shown.isdisjoint({"pydantic", "numpy", "pyarrow", "duckdb", "polars", "numba", "sqlglot"})
    planned = loaded("featurestore.cli", "plan", str(project / "features.py"), *place)
    assert "numba" not in planned, "nothing was added, so that no table need be opened"


def parameters(command):
    """Return every parameter of a command and of those in it, with a context of its command."""
    context = typer.Context(command)
    own = [(context, parameter) for parameter in command.get_params(context)]
    inner = command.commands.values() if isinstance(command, TyperGroup) else ()
    return own + [found for part in inner for found in parameters(part)]


EVERY = [
    *parameters(get_command(lineage_commands())),
    *parameters(get_command(featurestore_commands())),
]
KINDS = {
    str((p.type_descriptor.annotation, vars(p.type_descriptor.parameter_info).get("min"))): (c, p) for c, p in EVERY
}
PLAIN = "0 1 7 007 -3 +3 1_0 1.5 .5 5. 1e3 inf true table TABLE json remove info . /no/such"
WORDS = st.sampled_from([*PLAIN.split(), "", " ", "\N{ARABIC-INDIC DIGIT THREE}", __file__]) | st.text(
    max_size=6
).filter(lambda text: "\0" not in text)


@pytest.mark.parametrize("kind", KINDS)
@given(word=WORDS)
def test_what_is_read_as_plain_is_read_as_typer_reads_it(kind, word):
    context, parameter = KINDS[kind]
    value = (word, word) if parameter.type_descriptor.is_list else word
    try:
        read = plain(parameter.type_descriptor, value)
    except NotPlainError:
        return
    told = parameter.get_runtime_param().coerce(value, param=parameter, ctx=context)
    assert (type(read), read) == (type(told), told)


def test_defaults_are_plain():
    """Else a command without options would wait for pydantic."""
    for context, parameter in EVERY:
        default = parameter.get_default(context, call=True)
        read = plain(parameter.type_descriptor, default)
        assert read == parameter.get_runtime_param().coerce(default, param=parameter, ctx=context), parameter.name


@pytest.mark.parametrize("depth", ["0", "-1", "two", "1.5"])
def test_what_is_not_plain_is_refused_as_typer_refuses_it(depth, capsys):
    with pytest.raises(SystemExit) as done:
        main(["upstream", "weather", "--depth", depth, "--project", str(Path.cwd())])
    assert done.value.code == 2
    assert "Invalid value for '--depth'" in capsys.readouterr().err
