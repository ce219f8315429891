"""References have one spelling: what is printed is parsed back, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidArgumentError
from featurestore.refs import FeatureRef, ViewRef

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
versions = st.none() | st.integers(1, 999_999_999)
roles = st.none() | names
view_refs = st.builds(ViewRef, names, versions, roles)
feature_refs = st.builds(FeatureRef, names, versions, names, roles)


@given(feature_refs)
def test_a_feature_reference_is_parsed_back_as_it_is_printed(ref):
    assert FeatureRef.parse(str(ref)) == ref


@given(view_refs)
def test_a_view_reference_is_parsed_back_as_it_is_printed(ref):
    assert ViewRef.parse(str(ref)) == ref


@given(st.text(max_size=30))
def test_what_is_parsed_prints_as_it_was_written(text):
    for kind in (FeatureRef, ViewRef):
        try:
            parsed = kind.parse(text)
        except InvalidArgumentError:
            continue
        assert str(parsed) == text


@given(view_refs, names)
def test_a_feature_of_a_view_belongs_to_it(view, name):
    feature = view.feature(name)
    assert feature.view_ref == view
    assert feature.feature == name


@given(feature_refs)
def test_a_plain_reference_has_no_role_and_keeps_everything_else(ref):
    plain = ref.plain()
    assert plain.alias is None
    assert (plain.view, plain.version, plain.feature) == (ref.view, ref.version, ref.feature)


@given(feature_refs, st.integers(1, 9))
def test_a_reference_can_be_frozen_to_a_version(ref, version):
    assert ref.at(version).version == version
    assert ref.at(version).view_ref.version == version


@pytest.mark.parametrize(
    "text",
    [
        "",
        "weather",
        "weather:",
        ":temp",
        "weather@v0:temp",
        "weather@v01:temp",
        "weather@2:temp",
        "weather@v2",
        "weather@v2:temp ",
        "wea ther:temp",
        "weather:temp:humid",
        "1weather:temp",
        "a=b=weather:temp",
        "weather@v9999999999:temp",
        "weather:temp\n",
        "wéather:temp",
        "../weather:temp",
        None,
        5,
    ],
)
def test_anything_else_is_not_a_feature_reference(text):
    with pytest.raises(InvalidArgumentError, match="not a feature reference"):
        FeatureRef.parse(text)


@pytest.mark.parametrize("text", ["", "weather:temp", "weather@v", "weather@v0", "@v1", "weather@v1@v2", "weather\n"])
def test_anything_else_is_not_a_view_reference(text):
    with pytest.raises(InvalidArgumentError, match="not a view reference"):
        ViewRef.parse(text)


def test_the_error_says_how_to_write_one():
    with pytest.raises(InvalidArgumentError, match="Write view:feature or view@v2:feature"):
        FeatureRef.parse("weather")
