"""blocks.c, compiled on first use with whatever C compiler there is; without one the plain path serves."""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("blocks.c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC")
PLAIN_FLAGS = ("-O3", "-ffast-math", "-shared", "-fPIC")        # for compilers that do not know the others
LANES = 16                          # local widths are padded to a multiple of this


@functools.cache
def library(wide: torch.dtype) -> ctypes.CDLL | None:
    """Return blocks.c compiled for wide tensors of a type; none without a compiler, or with INR_NATIVE=0."""
    if os.environ.get("INR_NATIVE", "1") == "0" or wide not in (torch.float32, torch.bfloat16):
        return None
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    define = ["-DWIDE_BFLOAT16"] if wide is torch.bfloat16 else []
    key = hashlib.sha256(SOURCE.read_bytes() + repr((compiler, define, FLAGS, _cpu())).encode()).hexdigest()[:16]
    path = _cache() / f"blocks-{key}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder) / "blocks.so"
                if not any(_compiled(compiler, [*flags, *define], made) for flags in (FLAGS, PLAIN_FLAGS)):
                    return None
                made.replace(path)
        return _declared(ctypes.CDLL(str(path)))
    except OSError:                     # a read-only home, a library of another machine: do without
        return None


def call(function, *arguments) -> None:
    """Call a C function: tensors become pointers to their first element, None a null pointer."""
    function(*[a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments])


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes which arguments are numbers and which are pointers."""
    for declaration in re.finditer(r"^void (\w+)\(([^)]*)\)", SOURCE.read_text(), re.MULTILINE):
        name, parameters = declaration.groups()
        function = getattr(library, name)
        function.restype = None
        function.argtypes = [ctypes.c_void_p if "*" in p else ctypes.c_long for p in parameters.split(",")]
    return library


def _compiled(compiler: str, flags: list[str], out: Path) -> bool:
    done = subprocess.run([compiler, *flags, str(SOURCE), "-o", str(out), "-lm"], capture_output=True, check=False)
    return done.returncode == 0


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inr_scenes"


def _cpu() -> str:
    """Return what tells CPUs apart, since the library is compiled for this one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), platform.processor())
    except OSError:
        return platform.machine() + platform.processor()
