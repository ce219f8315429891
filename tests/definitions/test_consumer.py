"""Consumers and the key under which each reads."""

import pytest

from featurestore.definitions import Consumer, Dashboard, Job, Model, Person, Service
from featurestore.errors import DefinitionError


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Service, "service"), (Job, "job"), (Dashboard, "dashboard"), (Person, "person"), (Consumer, "service")],
)
def test_every_kind_reads_under_its_name(kind, name):
    assert (kind("nightly").kind, kind("nightly").key) == (name, "nightly")


def test_a_model_reads_under_name_and_version():
    assert (Model("delay", version="2.1-rc").key, Model("delay").key) == ("delay@2.1-rc", "delay@1")


@pytest.mark.parametrize("version", ["", "1@2", "a b", "1/2", "*", "--"])
def test_a_model_version_that_could_be_read_otherwise_is_refused(version):
    with pytest.raises(DefinitionError, match="version"):
        Model("delay", version=version)


@pytest.mark.parametrize("kind", [Service, Model])
def test_a_name_that_could_be_read_otherwise_is_refused(kind):
    with pytest.raises(DefinitionError, match="not allowed"):
        kind("delay@3")
