"""Run the benchmarks and write what they print into RESULTS.md, one section each.

    python benchmarks/run.py                            # all, in small: about six hours on two cores
    python benchmarks/run.py --only siren-30 goals      # these; all others keep their last figures
    python benchmarks/run.py --since 2026-11-20         # what has no figures of that day or later: goes on where it ended
    python benchmarks/run.py --quick                    # the shortest settings that still show the order: an hour
    python benchmarks/run.py --device cuda              # what is claimed of a GPU, at most ten minutes; others by --only

A section is the command, the date, how busy the machine was, what was printed, and remarks: those are written by hand
under their heading and stay. The machine should do nothing else meanwhile. --quick writes to results/quick.md, since its
figures are no measurement of a claim.
"""

import argparse
import datetime
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
HEAD = """# Results

`python benchmarks/run.py` writes every section's command, date, load and figures; what a line leaves unsaid is in the
docstring of its script. Remarks are written by hand and stay.
"""
REMARKS = "### Remarks\n"


class Section(NamedTuple):
    """A command, what makes it shorter (none: --quick leaves it out), and whether it takes --device."""

    command: str
    quick: str | None = ""
    device: bool = True


SECTIONS = {
    "main-job": Section("main_job.py", "--only shapes mesh", device=False),
    "recipes": Section("recipes.py --seconds 15", "--seconds 5"),
    "rates": Section('recipes.py --kinds image audio shape --seconds 5 --try "" --try lr=x0.5 --try lr=x2', None),
    "image-study": Section("image_study.py", "--seconds 3 --photos 2"),
    "siren-30": Section("siren.py --photos kodim23 highland kodim03 --goals 30 --plot", "--photos kodim23"),
    "siren-35": Section("siren.py --photos kodim23 highland kodim03 --goals 35 --plot", None),
    "goals": Section("goals.py", "--signals armadillo flower"),
    "scale-image": Section("scale.py --kinds image", "--sizes 256 1024", device=False),
    "scale-video": Section("scale.py --kinds video", "--sizes 10 100", device=False),
    "scale-shape": Section("scale.py --kinds shape", "--sizes 64 128", device=False),
    "local-global-speed": Section("local_global.py --only speed"),
    "local-global-partitions": Section("local_global.py --only partitions", None),
    "local-global-sound": Section("local_global.py --only audio --excerpt 3 --precision bf16", None),
    "local-global-image": Section("local_global.py --only images --signals kodim05 --precision bf16 --full", None),
    "local-global-video": Section("local_global.py --only video --fields per-partition siren local-global additive", None),
    "local-global-shape": Section("local_global.py --only shape --precision bf16 --full", None),
    "local-global-volume": Section("local_global.py --only volume", None),
    "local-global-extension": Section("local_global.py --only extension"),
    "inverse-problems": Section("inverse_problems.py", "--parts ct poisson", device=False),
    "gpu": Section("gpu.py", "--only ceilings training steps"),
    "generalizable": Section("generalizable.py --fresh --parts compare ablations --seeds 2", "--seeds 1 --steps 300 --name quick", device=False),
    "sounds": Section("generalizable.py --fresh --signals sounds --patch 64 --name sounds --seeds 1 --steps 1500 --lr 3e-3", None,
                      device=False),
    "solids": Section("generalizable.py --fresh --signals solids --name solids --seeds 1 --steps 1500 --lr 3e-3", None, device=False),
    "baselines": Section("generalizable.py --parts baselines --seeds 1", None, device=False),
    "few-shot": Section("generalizable.py --fresh --parts fewshot --name few-shot --seeds 2 --steps 24000 --lr 3e-3 --objects 800",
                        None, device=False),
    "bands": Section("generalizable.py --fresh --parts bands levels --name bands --seeds 2 --steps 1000", None, device=False),
    "generalizable-speed": Section("generalizable.py --fresh --parts speed --name speed --size 64 --tokens 64 --hidden 256 "
                                   "--precision bf16", device=False),
    "decode": Section("generalizable.py --fresh --parts decode", device=False),
    "refine": Section("generalizable.py --fresh --parts refine --images 3 --seconds 25", None, device=False),
    "trained-image": Section("pretrained.py image", "--photos kodim23 --refined 2", device=False),
    "trained-views": Section("pretrained.py views", None, device=False),
    "generation": Section("generate.py", "--minutes 2", device=False),
}


def read(path: Path) -> dict[str, tuple[str, str]]:
    """Return the sections of a results file: what was printed, and the remarks."""
    parts = re.split(r"^## (.+)\n", path.read_text() if path.is_file() else "", flags=re.MULTILINE)
    split = {name: body.partition(REMARKS) for name, body in zip(parts[1::2], parts[2::2])}
    return {name: (printed.strip(), remarks.strip()) for name, (printed, _, remarks) in split.items()}


def write(path: Path, found: dict[str, tuple[str, str]]) -> None:
    """Write sections in the order of SECTIONS; those that are no longer among them stay, at the end."""
    text = HEAD
    for name in [*(name for name in SECTIONS if name in found), *(name for name in found if name not in SECTIONS)]:
        printed, remarks = found[name]
        text += f"\n## {name}\n" + (f"\n{printed}\n" if printed else "") + (f"\n{REMARKS}\n{remarks}\n" if remarks else "")
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def fresh(printed: str, since: str | None) -> bool:
    """Say whether a section's figures are of that day or later."""
    date = re.search(r"\d{4}-\d\d-\d\d", printed.partition("\n")[0])
    return bool(since and date and date[0] >= since)


def run(words: list[str]) -> tuple[str, int]:
    """Run a script of this folder, showing what it prints as it comes; return that and the exit status."""
    lines = []
    command = [sys.executable, "-u", "-W", "ignore", str(HERE / words[0]), *words[1:]]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env={**os.environ, **from_checkout()}) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines), process.returncode


def from_checkout() -> dict[str, str]:
    """Return what tells a script where this checkout's packages are; nothing where they are installed."""
    if importlib.util.find_spec("inr_scenes"):
        return {}
    plugins = [path.parent for path in sorted((HERE.parent / "plugins").glob("*/inr_*/__init__.py"))]
    return {"PYTHONPATH": os.pathsep.join(map(str, [HERE.parent, *(path.parent for path in plugins)])),
            "INR_PLUGINS": ",".join(path.name for path in plugins)}


def main() -> None:
    """Run the chosen sections and rewrite the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS)
    parser.add_argument("--since", metavar="DATE", help="leave out what has figures of that day or later")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="default: RESULTS.md, of --quick results/quick.md")
    options = parser.parse_args()
    out = options.out or HERE / ("results/quick.md" if options.quick else "RESULTS.md")
    gpu_only = options.device.startswith("cuda")
    failed = []
    for name in options.only or [name for name in SECTIONS if (name == "gpu") == gpu_only]:
        section = SECTIONS[name]
        if fresh(read(out).get(name, ("", ""))[0], options.since) or (options.quick and section.quick is None):
            continue
        words = shlex.split(section.command) + (section.quick.split() if options.quick else [])
        words += ["--device", options.device] if section.device and options.device != "auto" else []
        load = f" · load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        print(f"\n{name}: benchmarks/{shlex.join(words)}", flush=True)
        tick = time.monotonic()
        printed, status = run(words)
        if status:
            failed.append(name)
            continue
        title = f"`python benchmarks/{shlex.join(words)}` · {datetime.date.today()}{load} · {time.monotonic() - tick:.0f} s"
        found = read(out)               # remarks may have been written meanwhile
        write(out, found | {name: (f"{title}\n\n{printed.strip()}", found.get(name, ("", ""))[1])})
    if failed:
        sys.exit(f"Failed, with their last figures left as they were: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
