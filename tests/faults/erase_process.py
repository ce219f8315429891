"""A process of its own that erases a user, and says when it begins and when it is done."""

from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa

from featurestore import Aggregation, Entity, Feature, FeatureView, PushSource
from featurestore.flow.erased import erasures_of
from featurestore.offline.datasets import save_dataset
from featurestore.offline.training_set import read_training_set
from featurestore.planning import plan_read
from featurestore.refs import ViewRef
from featurestore.testing.projects import ScratchProject

USER = Entity("user", {"user_id": "int64"})
PAIR = Entity("pair", {"user_id": "int64", "item": "int64"})
ACTS = FeatureView("acts", USER, PushSource("acts", "at"), [Feature("score", "int64"), Feature("note", "string")])
BUYS = FeatureView(
    "buys", PAIR, PushSource("buys", "at"), [Aggregation("amount", "sum", timedelta(days=1), dtype="int64")]
)
USERS, ERASED, NOW = 6, 3, 10**9
INSTANTS = pa.timestamp("us", "UTC")
KEY = pa.table({"user_id": [ERASED]})


def acts(at: int) -> pa.Table:
    """One row of each user; the note says the score again, so that a torn row would show."""
    scores = [at * 100 + user for user in range(USERS)]
    return pa.table(
        {
            "at": pa.array([at] * USERS, INSTANTS),
            "user_id": list(range(USERS)),
            "score": scores,
            "note": [f"score {score}" for score in scores],
        }
    )


def buys(at: int) -> pa.Table:
    """Two items of each user."""
    pairs = [(user, item) for user in range(USERS) for item in range(2)]
    return pa.table(
        {
            "at": pa.array([at] * len(pairs), INSTANTS),
            "user_id": [user for user, _ in pairs],
            "item": [item for _, item in pairs],
            "amount": [user * 10 + item for user, item in pairs],
        }
    )


def opened(folder: Path) -> ScratchProject:
    """The project, whose writer goes on with whatever was interrupted."""
    return ScratchProject(folder, ACTS, BUYS, now=NOW)


def fill(folder: Path) -> None:
    """Make a project with files of many kinds, a row that waits, rows in the log, and a dataset that lists old files."""
    with opened(folder) as project:
        for at in range(1, 4):
            project.writer.write(ViewRef("acts"), acts(at))
            project.writer.write(ViewRef("buys"), buys(at))
            project.writer.fold()
        plan = plan_read(project.snapshot, ["acts:score", "buys:sum_amount_1d"])
        spine = pa.table(
            {
                "user_id": list(range(USERS)),
                "item": [0] * USERS,
                "event_timestamp": pa.array([5] * USERS, INSTANTS),
            }
        )
        training_set = read_training_set(plan, spine, tables=project.table)
        save_dataset("kept", training_set, folder / "datasets", now=NOW)
        project.table(ViewRef("acts")).compact()
        project.writer.write(ViewRef("acts"), acts(NOW * 2))
        project.writer.write(ViewRef("buys"), buys(4))


def erase(folder: str, said: Connection) -> None:
    """Erase the user once it was told to; or, where that was interrupted, go on with it by opening the project."""
    if erasures_of(Path(folder)).journal() is not None:
        _answer(said)
        opened(Path(folder)).close()
    else:
        with opened(Path(folder)) as project:
            _answer(said)
            project.writer.erase("user", KEY, principal="me", reason="asked", now=NOW)
    said.send_bytes(b"done")


def _answer(said: Connection) -> None:
    said.send_bytes(b"ready")
    said.recv_bytes()
