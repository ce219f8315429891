"""The code scan on Python that makes it hard.

Every line says in a comment what it reads (``# -> refs``), or that nobody can tell (``# ?``).
"""

import textwrap
from pathlib import Path

import pytest

from lineage.scan import Confidence, scan


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    return root


def marked(root: Path) -> tuple[set, set]:
    """Return the (file, line, ref) and the (file, line) that the comments name."""
    known, unknown = set(), set()
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if "# ?" in line:
                unknown.add((name, number))
            if "# -> " in line:
                refs = line.partition("# -> ")[2].replace("# ?", "").split()
                known |= {(name, number, ref) for ref in refs}
    return known, unknown


def found(root: Path) -> tuple[set, set]:
    result = scan(root)
    assert not result.unread
    return {(r.file, r.line, r.ref) for r in result.references}, {(u.file, u.line) for u in result.unresolved}


STORE = "from featurestore import FeatureStore\nstore = FeatureStore()\n"

CASES = {
    "literals and keywords": """
        store.get_online_features(["weather@v1:temp", "weather@v1:wind"], keys={})  # -> weather@v1:temp weather@v1:wind
        store.get_online_features(features="delay_model", keys={})  # -> delay_model
        store.get_historical_features(spine, ["plane@v1:seats"])  # -> plane@v1:seats
        store.get_historical_features(spine, features=["dest=weather@v1:temp"])  # -> dest=weather@v1:temp
        """,
    "comments, docstrings and other texts are no reads": '''
        def describe():
            """store.get_online_features(["weather@v1:temp"])"""
            # store.get_online_features(["weather@v1:temp"])
            print("get_online_features(features=['weather@v1:temp'])", ["weather@v1:wind"])
        ''',
    "names, f-strings, joins, formats and sums": """
        VIEW = "weather@v1"
        PARTS = ("temp", "wind")
        ref = VIEW + ":" + PARTS[0]
        store.get_online_features([ref], {})  # -> weather@v1:temp
        store.get_online_features([f"{VIEW}:{p}" for p in PARTS], {})  # -> weather@v1:temp weather@v1:wind
        store.get_online_features(["{}:{}".format(VIEW, "gust")], {})  # -> weather@v1:gust
        store.get_online_features(["%s:%s" % (VIEW, "dewp")], {})  # -> weather@v1:dewp
        store.get_online_features([":".join([VIEW, "humid"])], {})  # -> weather@v1:humid
        store.get_online_features("weather@v1:a,weather@v1:b".split(","), {})  # -> weather@v1:a weather@v1:b
        """,
    "a name that is bound again is what it is at the call": """
        refs = ["weather@v1:temp"]
        store.get_online_features(refs, {})  # -> weather@v1:temp
        refs = ["weather@v1:wind"]
        store.get_online_features(refs, {})  # -> weather@v1:wind
        """,
    "both sides of a condition are code": """
        import sys
        USE_NEW = False
        refs = ["weather@v2:temp"] if USE_NEW else ["weather@v1:temp"]
        store.get_online_features(refs, {})  # -> weather@v2:temp weather@v1:temp
        if USE_NEW:
            store.get_online_features(["weather@v2:wind"], {})  # -> weather@v2:wind
        elif sys.argv:
            more = ["a@v1:x"]
        else:
            more = ["b@v1:x"]
        """,
    "lists that are changed, and pairs that belong together": """
        refs = []
        for view, names in {"weather@v1": ["temp"], "plane@v1": ["seats", "age"]}.items():
            for name in names:
                refs.append(f"{view}:{name}")
        refs += ["route@v1:distance"]
        refs.extend(["route@v1:stops"])
        store.get_online_features(refs, {})  # -> weather@v1:temp plane@v1:seats plane@v1:age route@v1:distance route@v1:stops
        pairs = [("a", "x"), ("b", "y")]
        store.get_online_features([f"{v}:{f}" for v, f in pairs], {})  # -> a:x b:y
        kept = [r for r in ["a:x", "b:y"] if r.startswith("a")]
        store.get_online_features(kept, {})  # -> a:x
        for name in ["a:one", "b:two"]:
            if name.endswith("two"):
                continue
            store.get_online_features([name], {})  # -> a:one
        """,
    "wrappers count where they are used, also through each other and with defaults": """
        def fetch(features, keys=None):
            return store.get_online_features(features, keys)
        def fetch_view(view, *names, **options):
            return fetch([f"{view}:{name}" for name in names], **options)
        fetch(["a:x"])  # -> a:x
        fetch_view("b", "y", "z", keys={})  # -> b:y b:z
        def score(keys, features=("c:d",)):
            return store.get_online_features(features, keys)  # -> c:d
        score({})
        score({}, ["e:f"])  # -> e:f
        """,
    "a wrapper that nobody calls is listed": """
        def fetch(features):
            return store.get_online_features(features, {})  # ?
        """,
    "a wrapper that is called with something unknown is listed there": """
        def fetch(features):
            return store.get_online_features(features, {})
        fetch(input().split())  # ?
        fetch(["a:x"])  # -> a:x
        """,
    "what is known in parts is listed with its pattern, what else there is beside": """
        import os
        def read(name):
            store.get_online_features(["a:x", f"weather@v1:{name}"], {})  # -> a:x  # ?
        store.get_online_features([os.environ["REF"]], {})  # ?
        store.get_online_features([os.environ.get("REF", "a:y")], {})  # -> a:y  # ?
        """,
    "methods under other names": """
        import functools
        read = store.get_online_features
        read(["a:x"], {})  # -> a:x
        bound = functools.partial(store.get_online_features, ["a:y"])
        bound(keys={})  # -> a:y
        getattr(store, "get_online_features")(["a:z"], {})  # -> a:z
        both = {"online": store.get_online_features}
        both["online"](["a:w"], {})  # -> a:w
        """,
    "classes: attributes, constructors, inheritance and properties": """
        class Reader:
            FEATURES = ["a:x"]
            def __init__(self, extra=None):
                self.store, self.extra = store, extra
            def run(self):
                return self.store.get_online_features(self.FEATURES, {})  # -> a:x
            def more(self):
                return self.store.get_online_features(self.extra, {})
            @property
            def refs(self):
                return ["a:p"]
            def from_property(self):
                return self.store.get_online_features(self.refs, {})  # -> a:p
        class Child(Reader):
            FEATURES = ["b:y"]
            def run(self):
                return self.store.get_online_features(["b:z"], {})  # -> b:z
        reader = Reader(["c:z"])  # -> c:z
        submit(reader.more)
        """,
    "a class with a method of that name is not the store": """
        class Fake:
            def get_online_features(self, features, keys):
                return features
        Fake().get_online_features(["a:x"], {})
        """,
    "a class made from the client is": """
        from featurestore.client import Client as C
        class Mine(C):
            pass
        with Mine("host") as client:
            client.get_online_features(["a:x"], {})  # -> a:x
        async def main():
            async with AsyncClient("host") as other:
                await other.get_online_features(["a:y"], {})  # -> a:y
        """,
    "dataclasses, enums and walrus": """
        from dataclasses import dataclass, field
        from enum import Enum
        class Ref(Enum):
            TEMP = "weather@v1:temp"
        @dataclass
        class Config:
            refs: list = field(default_factory=lambda: ["a:x"])
            service: str = "svc"
        config = Config(service="other")
        store.get_online_features(Config().refs, {})  # -> a:x
        store.get_online_features([Ref.TEMP.value], {})  # -> weather@v1:temp
        store.get_online_features(config.service, {})  # -> other
        if (refs := ["b:y"]):
            store.get_online_features(refs, {})  # -> b:y
        """,
    "generators, lambdas, try, match and nested functions": """
        def refs():
            yield "a:x"
            yield from ["a:y"]
        store.get_online_features(list(refs()), {})  # -> a:x a:y
        run = lambda names: store.get_online_features(names, {})
        run(["b:x"])  # -> b:x
        def outer():
            def inner(n):
                return store.get_online_features([n], {})
            try:
                return inner("c:x")  # -> c:x
            except KeyError:
                return inner("c:y")  # -> c:y
        match mode:
            case "a":
                store.get_online_features(["d:x"], {})  # -> d:x
        store.get_online_features(list(map(lambda n: "e:" + n, ["x", "y"])), {})  # -> e:x e:y
        """,
    "Feast": """
        from feast import FeatureService, FeatureStore as Feast
        fs = Feast(repo_path=".")
        fs.get_online_features(features=["driver:rate"], entity_rows=[])  # -> driver:rate
        service = fs.get_feature_service("driver_service")  # -> driver_service
        fs.get_historical_features(entity_df="select * from orders", features=service)  # -> orders
        mine = FeatureService(name="mine", features=[])
        fs.get_historical_features(entity_df=frame, features=mine).to_df()  # -> mine
        """,
    "HTTP": """
        import httpx, json, requests
        URL = "http://store:6566"
        requests.post(f"{URL}/v1/get-online-features", json={"features": ["a:x"], "keys": {}})  # -> a:x
        body = {"feature_service": "svc", "entities": {}}
        requests.post(URL + "/get-online-features", data=json.dumps(body))  # -> svc
        httpx.post(url=f"{URL}/get-online-features", content='{"features": ["b:y"]}')  # -> b:y
        httpx.post(f"{URL}/get-online-features", json=load())  # ?
        httpx.post(f"{URL}/other", json={"features": ["z:z"]})
        """,
    "tables and statements": '''
        import duckdb, pandas as pd, polars as pl
        from pathlib import Path
        DATA = Path("data")
        pd.read_parquet(DATA / "weather.parquet")  # -> data/weather.parquet
        pl.scan_parquet("s3://lake/plane/*.parquet")  # -> s3://lake/plane/*.parquet
        duckdb.sql("select * from flights join 'a.parquet' using (id)")  # -> flights a.parquet
        spark.read.format("delta").load("/lake/route")  # -> /lake/route
        cursor.execute("""select * from public.weather w where w.x > %s""", (1,))  # -> public.weather
        cursor.execute(f"select * from {table} join known using (id)")  # -> known  # ?
        pd.DataFrame().query("a > 1")
        executor.execute(job)
        ''',
    "a chain of calls that is too long to be followed is listed": """
        def f1(n):
            return store.get_online_features(n, {})  # ?
        def f2(n): return f1(n)
        def f3(n): return f2(n)
        def f4(n): return f3(n)
        def f5(n): return f4(n)
        def f6(n): return f5(n)
        f6(["a:x"])
        f4(["b:y"])  # -> b:y
        """,
    "loops without an end stay finite": """
        names = ["a:x"]
        while True:
            names.append("b:y")
            if done():
                break
        def again(n):
            store.get_online_features(n, {})
            return again(n)
        again(names)  # -> a:x b:y
        """,
}


@pytest.mark.parametrize("name", CASES)
def test_each_line_reads_what_its_comment_says(tmp_path, name):
    root = write(tmp_path, {"reading.py": STORE + textwrap.dedent(CASES[name])})
    assert found(root) == marked(root)


def test_names_are_followed_through_the_files_of_a_repository(tmp_path):
    root = write(
        tmp_path,
        {
            "src/shop/__init__.py": "",
            "src/shop/names.py": 'BASE = "weather@v1"\nALL = [f"{BASE}:temp"]\n',
            "src/shop/reading.py": """
                from featurestore import FeatureStore
                from . import names
                class Reader:
                    def __init__(self, features):
                        self.features = features
                    def read(self):
                        return FeatureStore().get_online_features(self.features, {})
                def fetch(name):
                    return FeatureStore().get_online_features([name], {})
                """,
            "services/score/app.py": """
                from shop.reading import Reader, fetch as get
                import shop.names as n
                Reader(n.ALL + ["a:b"]).read()
                get("c:d")
                """,
            "src/app.py": """
                from shop.reading import Reader, fetch as get
                import shop.names as n
                Reader(n.ALL + ["a:b"]).read()  # -> weather@v1:temp a:b
                get("c:d")  # -> c:d
                """,
        },
    )
    (root / "services/score/app.py").unlink()
    assert found(root) == marked(root)


def test_modules_that_import_each_other_are_read(tmp_path):
    root = write(
        tmp_path,
        {
            "one.py": STORE + 'import two\nNAMES = ["a:x"]\ntwo.fetch(NAMES)  # -> a:x\n',
            "two.py": "import one\ndef fetch(names):\n    return one.store.get_online_features(names, {})\n",
        },
    )
    assert found(root) == marked(root)


def test_the_confidence_says_how_the_name_is_known(tmp_path):
    text = 'N = "b:y"\nstore.get_online_features(["a:x", N, "c:" + "z"], {})\n'
    root = write(tmp_path, {"reading.py": STORE + text})
    known = {r.ref: r.confidence for r in scan(root).references}
    assert known == {"a:x": Confidence.literal, "b:y": Confidence.alias, "c:z": Confidence.folded}


def test_the_consumer_that_the_code_names_is_kept(tmp_path):
    text = """
        from featurestore.client import Client
        Client("host", consumer="delay@3").get_online_features(["a:x"], {})
        requests.post("http://s/v1/get-online-features", json={"features": ["a:y"]}, headers={"Featurestore-Consumer": "job"})
        """
    root = write(tmp_path, {"reading.py": text})
    assert {r.ref: r.consumer for r in scan(root).references} == {"a:x": "delay@3", "a:y": "job"}
