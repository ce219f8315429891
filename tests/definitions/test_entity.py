"""Entities: ordered, typed keys that can identify something."""

import pytest

from featurestore.definitions import Entity
from featurestore.errors import DefinitionError
from featurestore.types import Int64


def test_keys_keep_their_order_and_types():
    assert Entity("route", {"origin": "string", "dest": Int64}).keys == (("origin", "string"), ("dest", "int64"))


@pytest.mark.parametrize("dtype", ["float32", "float64", "decimal(5,2)"])
def test_a_key_that_cannot_identify_is_refused(dtype):
    with pytest.raises(DefinitionError, match=r"1001\.7 is not 1001"):
        Entity("user", {"id": dtype})


def test_an_unknown_key_type_names_the_nearest():
    with pytest.raises(DefinitionError, match="Did you mean 'string'"):
        Entity("user", {"id": "strng"})


def test_an_entity_without_keys_is_refused():
    with pytest.raises(DefinitionError, match="has no join key"):
        Entity("user", {})


@pytest.mark.parametrize("name", ["", "1st", "a b", "a-b", "a:b", "a@b", "../a", "é", "a\n", "x" * 129, None, 5])
def test_a_name_that_could_not_be_quoted_is_refused(name):
    for keys, own in (({"id": "int64"}, name), ({name: "int64"}, "user")):
        with pytest.raises(DefinitionError, match="is not allowed"):
            Entity(own, keys)
