"""How objects are called in OpenLineage: a namespace and a name, for datasets and for jobs.

What the store keeps is in the namespace ``featurestore://<project>``: datasets ``source/``, ``view/`` and ``dataset/``, jobs ``feed/``,
``select/``, ``serve/`` and ``read/``. A dataset of somebody else is a source called ``<namespace>/<name>``, and so is a job a consumer.
"""

from __future__ import annotations

from lineage.graph import Node

PRODUCER = "https://pypi.org/project/featurestore/"
SPEC = "https://openlineage.io/spec"
EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs"
SCHEME = "featurestore://"
# Our own facets carry a prefix, as the standard asks.
FACET = "featurestore_lineage"
FACET_SCHEMA = f"{PRODUCER}#/facets"

_KINDS = ("source", "view", "dataset")


def namespace_of(project: str) -> str:
    """Return the namespace of a project.

    >>> namespace_of("flights")
    'featurestore://flights'
    """
    return f"{SCHEME}{project}"


def dataset_name(node: Node) -> str:
    """Return the name of a source, view or dataset.

    >>> dataset_name(Node("view", "weather@v1"))
    'view/weather@v1'
    """
    return f"{node.kind}/{node.name}"


def dataset_node(namespace: str, name: str, *, own: str) -> Node:
    """Return the object that a dataset of an event is; what is in another namespace than our own is a source.

    >>> str(dataset_node("featurestore://flights", "view/weather@v1", own="featurestore://flights"))
    'weather@v1'
    >>> str(dataset_node("postgres://db:5432", "raw.weather", own="featurestore://flights"))
    'source:postgres://db:5432/raw.weather'
    """
    kind, _, rest = name.partition("/")
    if namespace == own and kind in _KINDS and rest:
        return Node(kind, rest)
    return Node("source", f"{namespace}/{name}")


def field_node(dataset: Node, field: str) -> Node:
    """Return the object that a field of a dataset is.

    >>> str(field_node(Node("view", "weather@v1"), "temp")), str(field_node(Node("source", "weather"), "temp"))
    ('weather@v1:temp', 'column:weather.temp')
    """
    if dataset.kind == "view":
        return Node("feature", f"{dataset.name}:{field}")
    return Node("column", f"{dataset.name}.{field}")
