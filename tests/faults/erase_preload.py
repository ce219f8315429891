"""What the server that forks the erasing processes imports once: all they need, with its compiled code loaded."""

import tempfile
from pathlib import Path

import erase_process
import pandas as pd  # noqa: F401  # Arrow looks for it at the first conversion
import pyarrow as pa

from featurestore.offline import delta  # noqa: F401  # a table is made with it
from featurestore.offline.data_files import write_data_file
from featurestore.rows import RowSchema
from featurestore.windows import compile_kernels

SCHEMA = RowSchema((), (), (), "at", None)

compile_kernels()
pa.set_cpu_count(1)  # a forked process has no threads of the pool
with tempfile.TemporaryDirectory() as folder:
    columns = [pa.array([1]).cast(field.type) for field in SCHEMA.arrow()]
    write_data_file(Path(folder), pa.table(columns, schema=SCHEMA.arrow()), SCHEMA)
assert erase_process.USERS
