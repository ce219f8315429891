"""``python -m featurestore.warmup`` compiles what is compiled once per machine, so that the first read does not wait."""

from featurestore.offline.engines import kernel
from featurestore.online.windows import compile_kernels

if __name__ == "__main__":
    compile_kernels()
    kernel.compile_kernels()
