"""Makes repositories whose reads are known: each line that reads says so in a comment (``# -> refs``), or that nobody can tell (``# ?``).

Every file is put together from idioms, with names drawn at random; a truth is written where the idiom is written, so no code of the
scan has a part in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

VIEWS = [
    f"{noun}_{kind}"
    for noun in ("driver", "plane", "weather", "route", "user", "order")
    for kind in ("daily", "hourly", "live")
]
NAMES = [
    f"{stem}_{unit}"
    for stem in ("temp", "count", "mean", "ratio", "last", "max", "speed")
    for unit in ("1h", "1d", "7d", "raw")
]


@dataclass
class Draw:
    """Names of one file."""

    random: random.Random
    counter: int = 0
    modules: list[tuple[str, str, list[str]]] = field(default_factory=list)

    def view(self) -> str:
        """Return a view, with or without a version."""
        return self.random.choice(VIEWS) + self.random.choice(["", "@v1", "@v2"])

    def names(self, most: int = 4) -> list[str]:
        """Return some feature names."""
        return self.random.sample(NAMES, self.random.randint(1, most))

    def fresh(self, stem: str) -> str:
        """Return a name of Python that was not used yet."""
        self.counter += 1
        return f"{stem}_{self.counter}"


def _read(draw: Draw, refs: str, truth: str) -> str:
    form = draw.random.choice([
        "store.get_online_features({0}, keys={{}})",
        "rows = store.get_online_features(features={0}, entity_rows=rows)",
        "frame = store.get_historical_features(spine, {0})",
        "frame = store.get_historical_features(entity_df=spine, features={0}).to_df()",
    ])  # fmt: skip
    return f"{form.format(refs)}  # {truth}"


def _arrow(refs: list[str]) -> str:
    return f"-> {' '.join(refs)}"


def literal(draw: Draw) -> Iterator[str]:
    refs = [f"{draw.view()}:{name}" for name in draw.names()]
    yield _read(draw, repr(refs), _arrow(refs))


def service(draw: Draw) -> Iterator[str]:
    name = draw.random.choice(VIEWS) + "_service"
    yield _read(draw, f"store.get_feature_service({name!r})", f"-> {name}")


def alias(draw: Draw) -> Iterator[str]:
    refs, name, other = [f"{draw.view()}:{n}" for n in draw.names()], draw.fresh("REFS"), draw.fresh("again")
    yield f"{name} = {refs!r}"
    yield f"{other} = {name}"
    yield _read(draw, draw.random.choice([name, other, f"list({name})", f"sorted({other})"]), _arrow(refs))


def rebound(draw: Draw) -> Iterator[str]:
    name = draw.fresh("refs")
    for _ in range(2):
        ref = f"{draw.view()}:{draw.names()[0]}"
        yield f"{name} = [{ref!r}]"
        yield _read(draw, name, f"-> {ref}")


def f_string(draw: Draw) -> Iterator[str]:
    view, names, constant = draw.view(), draw.names(), draw.fresh("VIEW")
    yield f"{constant} = {view!r}"
    inside = draw.random.choice(
        ["f'{{{0}}}:{{n}}'", "{0} + ':' + n", "'{{}}:{{}}'.format({0}, n)", "'%s:%s' % ({0}, n)", "':'.join([{0}, n])"]
    )
    yield _read(draw, f"[{inside.format(constant)} for n in {names!r}]", _arrow([f"{view}:{n}" for n in names]))


def loop(draw: Draw) -> Iterator[str]:
    table, refs = {draw.view(): draw.names() for _ in range(2)}, draw.fresh("refs")
    yield f"{refs} = []"
    yield f"for view, names in {table!r}.items():"
    yield "    for name in names:"
    yield f"        {refs}.append(f'{{view}}:{{name}}')"
    yield _read(draw, refs, _arrow([f"{view}:{n}" for view, names in table.items() for n in names]))


def wrapper(draw: Draw) -> Iterator[str]:
    name, view, names = draw.fresh("fetch"), draw.view(), draw.names()
    yield f"def {name}(view, *names, keys=None):"
    yield "    return store.get_online_features([f'{view}:{n}' for n in names], keys)"
    yield f"{name}({view!r}, {', '.join(map(repr, names))})  # {_arrow([f'{view}:{n}' for n in names])}"


def default(draw: Draw) -> Iterator[str]:
    name, ref = draw.fresh("score"), f"{draw.view()}:{draw.names()[0]}"
    yield f"def {name}(keys, features=({ref!r},)):"
    yield "    " + _read(draw, "features", f"-> {ref}")


def klass(draw: Draw) -> Iterator[str]:
    name, refs = draw.fresh("Reader"), [f"{draw.view()}:{n}" for n in draw.names()]
    own = f"{draw.view()}:{draw.names()[0]}"
    yield f"class {name}:"
    yield f"    OWN = [{own!r}]"
    yield "    def __init__(self, features):"
    yield "        self.features = features"
    yield "    def own(self):"
    yield f"        return store.get_online_features(self.OWN, {{}})  # -> {own}"
    yield "    def given(self):"
    yield "        return store.get_online_features(self.features, {})"
    yield f"{name}({refs!r}).given()  # {_arrow(refs)}"


def renamed(draw: Draw) -> Iterator[str]:
    name, refs = draw.fresh("read"), [f"{draw.view()}:{n}" for n in draw.names()]
    yield f"{name} = " + draw.random.choice(
        [
            "store.get_online_features",
            "functools.partial(store.get_online_features)",
            "getattr(store, 'get_online_features')",
        ]
    )
    yield f"{name}({refs!r}, {{}})  # {_arrow(refs)}"


def chosen(draw: Draw) -> Iterator[str]:
    one, other = (f"{draw.view()}:{draw.names()[0]}" for _ in range(2))
    yield _read(draw, f"[{one!r}] if flags.new else [{other!r}]", _arrow([one, other]))


def posted(draw: Draw) -> Iterator[str]:
    refs = [f"{draw.view()}:{n}" for n in draw.names()]
    yield f"requests.post(URL + '/v1/get-online-features', json={{'features': {refs!r}, 'keys': {{}}}})  # {_arrow(refs)}"


def table(draw: Draw) -> Iterator[str]:
    name = f"{draw.random.choice(VIEWS)}_{draw.fresh('t')}"
    path = f"data/{name}.parquet"
    yield f"pd.read_parquet({path!r})  # -> {path}"
    yield f"FOLDER_{name} = pathlib.Path('data')"
    yield f"pl.scan_parquet(FOLDER_{name} / {f'{name}.parquet'!r})  # -> {path}"
    yield f'cursor.execute("select a from lake.{name} x join dim_{name} y using (id)")  # -> lake.{name} dim_{name}'


def imported(draw: Draw) -> Iterator[str]:
    if not draw.modules:
        return
    module, function, refs = draw.random.choice(draw.modules)
    name = draw.random.choice(refs)
    yield f"from lib.{module} import {function} as {draw.fresh('get')}, REFS as {draw.fresh('more')}"
    yield f"get_{draw.counter - 1}({name!r})  # -> {name}"
    yield _read(draw, f"more_{draw.counter}", _arrow(refs))


def dynamic(draw: Draw) -> Iterator[str]:
    name = draw.fresh("asked")
    yield f"def {name}(name, config):"
    for refs in ("config['features']", f"[f'{draw.view()}:{{name}}']", "[os.environ['REF']]", "load(name)"):
        yield "    " + _read(draw, refs, "?")


def decoy(draw: Draw) -> Iterator[str]:
    ref, name = f"{draw.view()}:{draw.names()[0]}", draw.fresh("Fake")
    yield f"# store.get_online_features([{ref!r}])"
    yield f"note = 'store.get_online_features([{ref}])'"
    yield f"class {name}:"
    yield f'    """Reads {ref} by store.get_online_features."""'
    yield "    def get_online_features(self, features, keys=None):"
    yield "        return features"
    yield f"{name}().get_online_features([{ref!r}])"
    yield f"requests.post(URL + '/v1/other', json={{'features': [{ref!r}]}})"
    yield f"plot([{ref!r}])"
    yield f"frame.query({ref.partition(':')[2]!r} + ' > 1')"


IDIOMS: list[Callable[[Draw], Iterator[str]]] = [
    literal, service, alias, rebound, f_string, loop, wrapper, default, klass, renamed, chosen, posted, table, imported, dynamic, decoy
]  # fmt: skip
_HEAD = """import functools, os, pathlib
import pandas as pd, polars as pl, requests
from {library} import FeatureStore{alias}
store = {name}()
URL = "http://store"
"""


def make_corpus(root: Path, *, files: int, seed: int, plain: int = 0) -> None:
    """Write a repository.

    Args:
        root: Where; made when missing.
        files: How many files read something.
        seed: The same seed makes the same repository.
        plain: How many further files read nothing.
    """
    generator = random.Random(seed)
    (root / "lib").mkdir(parents=True)
    modules = []
    for number in range(max(1, files // 20)):
        refs = [f"{generator.choice(VIEWS)}:{name}" for name in generator.sample(NAMES, 3)]
        name = f"shared_{number}"
        text = (
            _head(generator)
            + f"REFS = {refs!r}\ndef fetch(name):\n    return store.get_online_features([name], {{}})\n"
        )
        (root / "lib" / f"{name}.py").write_text(text)
        modules.append((name, "fetch", refs))
    for number in range(files):
        draw = Draw(generator, modules=modules)
        lines = [line for _ in range(8) for line in generator.choice(IDIOMS)(draw)]
        (root / f"job_{number}.py").write_text(_head(generator) + "\n".join(lines) + "\n")
    for number in range(plain):
        body = "\n".join(
            f"def step_{n}(rows, limit={n}):\n    return [row for row in rows if row > limit]\n" for n in range(40)
        )
        (root / f"plain_{number}.py").write_text(body)


def _head(generator: random.Random) -> str:
    alias = generator.choice(["", " as Store"])
    return _HEAD.format(
        library=generator.choice(["featurestore", "feast"]), alias=alias, name="Store" if alias else "FeatureStore"
    )


def truth_of(root: Path) -> tuple[set[tuple[str, int, str]], set[tuple[str, int]]]:
    """Return what the comments of a repository say: (file, line, ref) of what is read, (file, line) of what nobody can tell."""
    known, unknown = set(), set()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.endswith("# ?"):
                unknown.add((name, number))
            elif "# -> " in line:
                known |= {(name, number, ref) for ref in line.partition("# -> ")[2].split()}
    return known, unknown
