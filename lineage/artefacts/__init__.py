"""What a model uses of its inputs, from the model itself: its signature, and which inputs have weight.

`read_artefact` reads a model file without running anything in it: LightGBM's text, XGBoost's JSON and UBJ, ONNX, and the JSON that
`describe` gives. Nothing here opens a pickle. For a model that only exists as one, `describe` is called in the program that has it:

    json.dump(lineage.artefacts.describe(model), open("delay_model.json", "w"))

An artefact is a JSON object: ``format``, ``inputs`` (names in order), ``used`` (those with weight) and ``opaque`` (why it cannot be
said; then ``used`` says nothing). What is not understood is opaque, never "unused".
"""

from __future__ import annotations

from lineage.artefacts.describe import describe
from lineage.artefacts.read import read_artefact

__all__ = ["describe", "read_artefact"]
