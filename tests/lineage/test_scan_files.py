"""The code scan on notebooks, SQL and configuration files, what it leaves out, and how it answers."""

import json
import subprocess
import sys

import pytest

from lineage.errors import NotFoundError
from lineage.scan import as_sarif, scan


def put(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def places(root, **options):
    return [(r.file, r.line, r.kind, r.ref) for r in scan(root, **options).references]


def notebook(*cells, indent=1):
    return json.dumps(
        {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]}, indent=indent
    )


def test_notebooks_are_read_cell_after_cell_with_the_line_of_the_file(tmp_path):
    first = "%load_ext sql\nimport feast\nstore = feast.FeatureStore()\nREF = 'driver:rate'\n"
    second = "!ls\nrows = store.get_online_features(\n    features=[REF], entity_rows=[])\n"
    path = put(
        tmp_path, "explore.ipynb", notebook(first, second, "%%sql\nselect *\nfrom trips\n", "%sql select 1 from cars")
    )
    found = scan(tmp_path)
    assert [(r.kind, r.ref, r.cell) for r in found.references] == [
        ("feature", "driver:rate", 2), ("table", "trips", 3), ("table", "cars", 4)
    ]  # fmt: skip
    lines = path.read_text().splitlines()
    assert "rows = store" in lines[found.references[0].line - 1]
    assert "trips" in lines[found.references[1].line - 1]
    assert not found.unread


def test_a_minified_notebook_is_read_too(tmp_path):
    put(tmp_path, "n.ipynb", notebook("s.get_online_features(['a:x'], {})", indent=None))
    assert places(tmp_path) == [("n.ipynb", 1, "feature", "a:x")]


def test_sql_files_name_their_tables_with_their_lines(tmp_path):
    put(
        tmp_path,
        "q.sql",
        "with recent as (\n  select * from raw.flights\n)\nselect * from recent\njoin planes p using (t);\n",
    )
    assert places(tmp_path) == [("q.sql", 2, "table", "raw.flights"), ("q.sql", 5, "table", "planes")]


def test_dbt_templates_are_understood_and_what_they_hide_is_listed(tmp_path):
    text = (
        "{{ config(materialized='table') }}\nselect * from {{ ref('stg') }}\njoin {{ source('raw', 'x') }} using (id)\n"
    )
    put(tmp_path, "m.sql", text.replace("{{ config(materialized='table') }}\n", "{# a note #}\n"))
    assert places(tmp_path) == [("m.sql", 2, "table", "stg"), ("m.sql", 3, "table", "raw.x")]
    put(tmp_path, "n.sql", "select * from {{ var('table') }}")
    assert [(u.file, u.pattern) for u in scan(tmp_path).unresolved] == [("n.sql", "*")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "# features: [z:z]\nmodel:\n  features:\n    - weather@v1:temp\n    - ${VIEW}:wind\n  feature_service: svc\n"),
        ("c.toml", '# z\n[model]\nfeatures = [\n  "weather@v1:temp",\n  "${VIEW}:wind"]\nfeature_service = "svc"\n'),
        ("c.json", '{"model":\n\n{"features": [\n"weather@v1:temp",\n"${VIEW}:wind"],\n"feature_service": "svc"}}'),
    ],
)  # fmt: skip
def test_configuration_files_name_features_and_services(tmp_path, name, text):
    put(tmp_path, name, text)
    assert places(tmp_path) == [(name, 4, "feature", "weather@v1:temp"), (name, 6, "service", "svc")]
    assert [(u.line, u.expression) for u in scan(tmp_path).unresolved] == [(5, "${VIEW}:wind")]


def test_times_ports_and_urls_in_settings_are_no_features(tmp_path):
    put(tmp_path, "c.yaml", "start: '12:30'\nimage: redis:alpine\nfeatures: 'http://x:80'\nfeature_flags: [a b]\n")
    assert places(tmp_path) == []


def test_files_that_do_not_parse_are_listed_with_the_error(tmp_path):
    put(tmp_path, "old.py", "import a\nprint 'x'\nstore.get_online_features(['a:x'])\n")
    put(tmp_path, "bad.sql", "select from where from")
    put(tmp_path, "bad.yaml", "features: [a:x\n")
    put(tmp_path, "bad.ipynb", "{}")
    put(tmp_path, "good.py", "store.get_online_features(['b:y'], {})")
    found = scan(tmp_path)
    assert [u.file for u in found.unread] == ["bad.ipynb", "bad.sql", "bad.yaml", "old.py"]
    assert found.unread[-1].line == 2
    assert [r.ref for r in found.references] == ["b:y"]


def test_environments_ignored_files_and_tests_are_left_out(tmp_path):
    text = "store.get_online_features(['a:x'], {})"
    left_out = [
        "venv/a.py",
        ".tox/a.py",
        "node_modules/a.py",
        "out/a.py",
        "deep/out/b.py",
        "x.gen.py",
        "tests/test_a.py",
        "test_b.py",
    ]
    for name in [*left_out, "src/a.py"]:
        put(tmp_path, name, text)
    put(tmp_path, ".gitignore", "# made\nout/\n*.gen.py\n")
    assert [r.file for r in scan(tmp_path).references] == ["src/a.py"]
    assert [r.file for r in scan(tmp_path, tests=True, exclude=["src/"]).references] == ["test_b.py", "tests/test_a.py"]


def test_one_file_can_be_scanned_and_a_missing_one_is_an_error(tmp_path):
    path = put(tmp_path, "a.py", "store.get_online_features(['a:x'], {})")
    assert places(path) == [("a.py", 1, "feature", "a:x")]
    with pytest.raises(NotFoundError, match="There is no folder"):
        scan(tmp_path / "none")


def test_hostile_files_end_the_scan_of_that_file_alone(tmp_path):
    put(tmp_path, "deep.py", "x = " + "(" * 500 + ")" * 500 + "\nstore.get_online_features(x)")
    put(tmp_path, "sum.py", "x = " + " + ".join(["'a'"] * 20_000) + "\nstore.get_online_features(x)")
    put(tmp_path, "nul.py", "get_online_features\0")
    nest = "\n".join(f"{' ' * n}for a{n} in range(99):" for n in range(12))
    put(tmp_path, "loops.py", f"{nest}\n{' ' * 12}store.get_online_features(['a:x'], {{}})\n")
    put(tmp_path, "good.py", "store.get_online_features(['b:y'], {})")
    found = scan(tmp_path)
    assert {"b:y"} <= {r.ref for r in found.references} <= {"a:x", "b:y"}
    assert {u.file for u in found.unread} == {"deep.py", "sum.py", "nul.py", "loops.py"}


def test_a_scan_is_sarif_for_code_hosts(tmp_path):
    put(tmp_path, "a.py", "store.get_online_features(['a:x', b], {})")
    document = as_sarif(scan(tmp_path))
    results = document["runs"][0]["results"]
    assert [(r["ruleId"], r["level"]) for r in results] == [("LC001", "note"), ("LC002", "warning")]
    region = results[0]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 1, "startColumn": 1}


def test_the_scan_loads_no_sql_parser_before_it_meets_sql(tmp_path):
    put(tmp_path, "a.py", "store.get_online_features(['a:x'], {})")
    code = f"import sys; from lineage.scan import scan; scan({str(tmp_path)!r}); print('sqlglot' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
