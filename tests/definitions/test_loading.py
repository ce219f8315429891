"""Reading a file of definitions: as it is now, with the line of every mistake."""

import os

import pytest

from featurestore.definitions.loading import load_definitions
from featurestore.errors import DefinitionError


def test_an_edit_of_the_same_size_within_the_same_second_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    path = tmp_path / "features.py"
    for name in ("one", "two"):
        path.write_text(f'from featurestore import Entity\nit = Entity("{name}", join_keys={{"id": "int64"}})\n')
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert [entity.name for entity in load_definitions(path)] == [name]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("ttl=7", r"The ttl of 'w' cannot be 7.*timedelta\(hours=4\)"),
        ('entity="user"', r"The entity of 'w' cannot be 'user'.*Entity\("),
        ('source="a.parquet"', r"The source of 'w' cannot be 'a.parquet'.*ParquetSource\("),
        ('features=["temp"]', r"A feature of 'w' cannot be 'temp'.*Feature\("),
    ],
)
def test_a_value_of_the_wrong_kind_says_what_it_should_look_like_and_its_line(tmp_path, wrong, said):
    given = {"entity": "user", "source": 'PushSource("s")', "features": '[Feature("x", "int64")]'}
    name, _, value = wrong.partition("=")
    arguments = ", ".join(f"{key}={text}" for key, text in (given | {name: value}).items())
    path = tmp_path / "features.py"
    path.write_text(
        "from featurestore import Entity, Feature, FeatureView, PushSource\n"
        'user = Entity("user", join_keys={"id": "int64"})\n'
        f'w = FeatureView("w", {arguments})\n'
    )
    with pytest.raises(DefinitionError, match=said) as raised:
        load_definitions(path)
    assert raised.value.place == f"{path}:3"


@pytest.mark.parametrize(
    ("statement", "said"), [("sys.exit(3)", "exits with 3"), ("sys.exit('no')", "exits with 'no'")]
)
def test_a_file_that_exits_is_said_with_its_line(tmp_path, statement, said):
    path = tmp_path / "features.py"
    path.write_text(f"import sys\n{statement}\n")
    with pytest.raises(DefinitionError, match=said) as raised:
        load_definitions(path)
    assert raised.value.place == f"{path}:2"
