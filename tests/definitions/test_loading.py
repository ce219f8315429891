"""Reading a file of definitions: as it is now, with the line of every mistake."""

import os

from featurestore.definitions.loading import load_definitions


def test_an_edit_of_the_same_size_within_the_same_second_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    path = tmp_path / "features.py"
    for name in ("one", "two"):
        path.write_text(f'from featurestore import Entity\nit = Entity("{name}", join_keys={{"id": "int64"}})\n')
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert [entity.name for entity in load_definitions(path)] == [name]
