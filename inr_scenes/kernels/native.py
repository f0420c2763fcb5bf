"""C kernels, compiled on first use with whatever C compiler there is; without one plain torch serves."""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch

HEADER = Path(__file__).with_name("wide.h")
SINES, MARCH = (Path(__file__).with_name(name) for name in ("sines.c", "march.c"))
# of -ffast-math what sums in vectors need: the whole of it makes numbers near zero vanish in all of the process
MATH = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno", "-ffp-contract=fast")
FLAGS = ("-O3", "-march=native", *MATH, "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC")
PLAIN_FLAGS = ("-O3", *MATH, "-shared", "-fPIC")    # for compilers that do not know the others
TYPES = (torch.float32, torch.bfloat16)
LANES = 16                          # that widths are at least, or padded to a multiple of


@functools.cache
def library(source: Path, wide: torch.dtype) -> ctypes.CDLL | None:
    """Return a C file, which may include wide.h, compiled for wide tensors of a type.

    None without a compiler, or with INR_NATIVE=0.
    """
    if os.environ.get("INR_NATIVE", "1") == "0" or wide not in TYPES:
        return None
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    define = [f"-I{HEADER.parent}", *(["-DWIDE_BFLOAT16"] if wide is torch.bfloat16 else [])]
    told = repr((compiler, define[1:], FLAGS, PLAIN_FLAGS, _cpu())).encode()
    key = hashlib.sha256(HEADER.read_bytes() + source.read_bytes() + told).hexdigest()[:16]
    path = _cache() / f"{source.stem}-{key}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder) / "made.so"
                if not any(_compiled([compiler, *flags, *define, str(source)], made) for flags in (FLAGS, PLAIN_FLAGS)):
                    return None
                made.replace(path)
        return _declared(ctypes.CDLL(str(path)), source)
    except OSError:                     # a read-only home, a library of another machine: do without
        return None


def call(function, *arguments) -> None:
    """Call a C function: tensors become pointers to their first element, None a null pointer."""
    function(*[a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments])


class Pool:
    """Memory of one step's part, taken again by the next: fresh pages would cost as much as the sines."""

    def __init__(self, make: Callable[..., Any]):
        self.make, self.free = make, {}

    def take(self, *key: Hashable) -> Any:
        """Return memory that is free, or make(*key)."""
        try:
            return self.free[key].pop()         # in one go: another thread may take the last
        except (KeyError, IndexError):
            pass
        with torch.inference_mode(False):       # the memory outlives the decoding that may ask for it first
            return self.make(*key)

    def give(self, memory: Any, *key: Hashable) -> None:
        """Free memory for the next part; that of other sizes is let go."""
        if key not in self.free:
            self.free.clear()
        self.free.setdefault(key, []).append(memory)


def _declared(library: ctypes.CDLL, source: Path) -> ctypes.CDLL:
    """Tell ctypes which arguments are numbers and which are pointers."""
    for declaration in re.finditer(r"^void (\w+)\(([^)]*)\)", source.read_text(), re.MULTILINE):
        name, parameters = declaration.groups()
        function = getattr(library, name)
        function.restype = None
        function.argtypes = [ctypes.c_void_p if "*" in p else ctypes.c_long for p in parameters.split(",")]
    return library


def _compiled(command: list[str], out: Path) -> bool:
    return subprocess.run([*command, "-o", str(out), "-lm"], capture_output=True, check=False).returncode == 0


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inr_scenes"


def _cpu() -> str:
    """Return what tells CPUs apart, since the library is compiled for this one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), platform.processor())
    except OSError:
        return platform.machine() + platform.processor()
