"""The code scan on made repositories whose reads are known; the whole of it is `benchmarks/code_scan.py`."""

import re

import pytest

from benchmarks.code_scan import PROMISED, judge
from benchmarks.scan_corpus import make_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "repository"
    make_corpus(root, files=40, seed=7, plain=20)
    return root


def test_what_a_repository_reads_is_found_and_nothing_else(corpus):
    verdict = judge(corpus)
    assert verdict.right > 500
    assert verdict.precision >= PROMISED, verdict.false[:5]
    assert verdict.recall >= PROMISED, verdict.missed[:5]


def test_what_nobody_can_tell_is_listed_each_time(corpus):
    verdict = judge(corpus)
    assert verdict.listed > 50
    assert verdict.lost == []


@pytest.mark.parametrize(
    ("pattern", "by", "noticed"),
    [
        (r"(-> .*)", r"\1 planted:fault", "missed"),  # a truth that the code does not read
        (r"  # -> .*", "", "false"),  # a read that the truth does not know
        (r"  # \?", "", "lost"),
        (r"# (store.get_online_features.*)", r"\1", "false"),  # a decoy that reads after all
    ],
)
def test_a_planted_fault_is_noticed(corpus, tmp_path, pattern, by, noticed):
    for path in corpus.glob("job_*.py"):
        lines = path.read_text().splitlines()
        place = next((n for n, line in enumerate(lines) if re.search(pattern, line)), None)
        if place is not None:
            break
    (tmp_path / "lib").symlink_to(corpus / "lib")
    lines[place] = re.sub(pattern, by, lines[place])
    (tmp_path / path.name).write_text("\n".join(lines) + "\n")
    assert getattr(judge(tmp_path), noticed)


def test_a_corpus_is_the_same_for_the_same_seed(tmp_path):
    for name in ("one", "two"):
        make_corpus(tmp_path / name, files=3, seed=1)
    texts = [[p.read_text() for p in sorted((tmp_path / name).rglob("*.py"))] for name in ("one", "two")]
    assert texts[0] == texts[1]
