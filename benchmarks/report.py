"""What the benchmarks print: tables in Markdown, and the machine they ran on."""

import datetime
import math
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

from inr_scenes import __version__


def machine(device: str = "cpu") -> str:
    """Say what computed, with which versions, and on what day."""
    if torch.accelerator.is_available() and device != "cpu":
        kind = torch.accelerator.current_accelerator()
        name = torch.cuda.get_device_name() if kind.type == "cuda" else str(kind)
    else:
        name = f"{_cpu()}, {torch.get_num_threads()} threads"
    versions = f"Python {platform.python_version()} · torch {torch.__version__} · inr-scenes {__version__}"
    return f"{name} · {versions} · {datetime.date.today()}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def show(rows: Iterable[dict[str, object]], title: str = "", note: str = "") -> list[dict[str, object]]:
    """Print a table under its title, each row as it comes, then a note; return the rows.

    Columns are those of the first row, and of all others where they are given as a list.
    """
    if title:
        print(f"### {title}\n")
    columns = list(dict.fromkeys(name for row in rows for name in row)) if isinstance(rows, list) else None
    shown = []
    for row in rows:
        if not shown:
            columns = columns or list(row)
            print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        print(f"| {' | '.join(_cell(row.get(name)) for name in columns)} |", flush=True)
        shown.append(row)
    print(f"\n{note}\n" if note else "", flush=True)
    return shown


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if not math.isfinite(value) else f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else "" if value is None else str(value)
