"""Run every benchmark and write what they print into RESULTS.md, one section each; others keep their last figures.

    python benchmarks/run.py                          # all, in small: some hours on two cores
    python benchmarks/run.py --quick                  # the shortest settings that still show the order
    python benchmarks/run.py --only siren local-global
    python benchmarks/run.py --device cuda            # what is claimed of a GPU, at most ten minutes; others by --only

The machine should do nothing else meanwhile: a section says how busy it was when it began.
"""

import argparse
import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
HEAD = """# Results

Written by `python benchmarks/run.py`; every section says the command that printed it, the machine's load when it began,
and the date. What a line leaves unsaid is in the docstring of its script.
"""
# section → (script and arguments, shorter arguments, whether it takes --device)
SECTIONS = {
    "main-job": ("main_job.py", "--only shapes mesh", False),
    "recipes": ("recipes.py", "--seconds 8", True),
    "image-study": ("image_study.py", "--seconds 3 --photos 2", True),
    "siren": ("siren.py --plot", "--goals 30", True),
    "goals": ("goals.py", "--signals armadillo flower", True),
    "scale": ("scale.py", "--sizes 256 1024 --kinds image", False),
    "local-global": ("local_global.py", "--only speed audio", True),
    "inverse-problems": ("inverse_problems.py", "--parts ct poisson", False),
    "gpu": ("gpu.py", "--only ceilings training steps", True),
    "generalizable": ("generalizable.py --parts compare ablations speed decode --seeds 2", "--seeds 1 --steps 300",
                      False),
    "trained-models": ("pretrained.py image", "--photos kodim23 --refined 2", False),
    "generation": ("generate.py", "--minutes 2", False),
}


def sections(text: str) -> dict[str, str]:
    """Split a results file into its sections."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def _run(command: list[str]) -> tuple[str, int]:
    """Run a command, showing what it prints as it comes; return that and the exit status."""
    lines = []
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines), process.returncode


def main() -> None:
    """Run the chosen sections and rewrite the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    only = options.only or (["gpu"] if on_gpu else [name for name in SECTIONS if name != "gpu"])
    found = sections(RESULTS.read_text()) if RESULTS.is_file() else {}
    failed = []
    for name in only:
        script, quick, takes_device = SECTIONS[name]
        words = script.split() + (quick.split() if options.quick else [])
        words += ["--device", options.device] if takes_device else []
        load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        print(f"{name}: benchmarks/{' '.join(words)}", flush=True)
        printed, status = _run([sys.executable, "-u", "-W", "ignore", str(HERE / words[0]), *words[1:]])
        if status:
            failed.append(name)
            continue
        title = f"`python benchmarks/{' '.join(words)}` · {datetime.date.today()} · {load}"
        found[name] = f"\n{title}\n\n{printed.strip()}\n\n"
        body = "".join(f"## {title}\n{found[title]}" for title in SECTIONS if title in found)
        temporary = RESULTS.with_suffix(".tmp")
        temporary.write_text(f"{HEAD}\n{body}".rstrip() + "\n")
        temporary.replace(RESULTS)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
