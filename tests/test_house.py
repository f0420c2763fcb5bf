"""The house itself: floors, start-up, help, docs."""

import ast
import dataclasses
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import inr_scenes
from inr_scenes.archive import save
from inr_scenes.field import build
from inr_scenes.plugins import host
from inr_scenes.testing import small_signal

PACKAGE = Path(inr_scenes.__file__).parent
ROOT = Path(__file__).parents[1]
FLOORS = [
    {"errors"},
    {"files", "device", "camera", "bricks", "metrics", "settings", "media", "lightning", "kernels"},
    {"spec", "derivatives", "muon"},
    {"hookspecs", "units", "optim", "catalog"},
    {"plugins", "signal"},
    {"field"},
    {"rays", "geometry", "sampler", "guard"},
    {"surface"},
    {"siren", "signals", "generalizable"},
    {"problems", "windows"},
    {"archive", "augment", "evaluate", "export", "mesh", "regions"},
    {"fit", "exporters", "render"},
    {"builtin", "api", "track", "dataset", "validation"},
    {"batches"},
    {"train", "views"},
    {"latents"},
    {"prior"},
    {"cli", "testing", "viewer", "nerfstudio"},
    {"__init__", "__main__"},
]
# lazily, inside a function, a verb may reach for a neighbour; what it must not do is import upwards at module level


def rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield path, parts


def floor_of(room: str) -> int:
    return next((i for i, floor in enumerate(FLOORS) if room in floor), -1)


@pytest.mark.parametrize("path, parts", list(rooms()), ids=lambda x: str(x) if isinstance(x, tuple) else "")
def test_imports_only_from_below(path, parts):
    room = parts[0]
    assert floor_of(room) >= 0, f"{room} has no floor: give it one"
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = parts[:len(parts) - node.level]
        target = (*base, *(node.module or "").split(".")) if node.module else base
        names = [target] if node.module else [(*base, alias.name) for alias in node.names]
        for name in names:
            if name and name[0] and name[0] != room:
                assert floor_of(name[0]) < floor_of(room), f"{'.'.join(parts)} imports {name[0]}, which is no lower"


def test_heavy_libraries_are_imported_where_they_are_used():
    heavy = {"open3d", "trimesh", "skimage", "nerfstudio", "PIL", "av", "soundfile", "scipy", "tyro", "rich", "viser"}
    for path, _ in rooms():
        for node in ast.parse(path.read_text()).body:
            found = {a.name.split(".")[0] for a in node.names} if isinstance(node, ast.Import) else \
                {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) and not node.level else set()
            assert not found & heavy, f"{path.name} imports {found & heavy} at module level"


def test_import_is_light_and_help_is_quick():
    code = "import sys, inr_scenes; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    best = 9.0
    for _ in range(4):
        start = time.perf_counter()
        out = subprocess.run([sys.executable, "-m", "inr_scenes", "--help"], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - start)
    assert "fit" in out.stdout and best < 0.4


def test_fields_and_benchmarks_of_speed_import_without_what_a_gpu_machine_may_lack():
    missing = ("tyro", "trimesh", "open3d", "av", "nerfstudio", "schedulefree", "soundfile", "pooch")
    code = (f"import sys; sys.modules.update(dict.fromkeys({missing}, None)); sys.path.insert(0, 'benchmarks')\n"
            "import gpu, inr_fourier_mlp, inr_local_global, inr_locality_aware")
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, [ROOT, *sorted((ROOT / "plugins").glob("*_*"))]))}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_opening_an_archive_loads_no_compiler(tmp_path):
    for cls in host().fields():         # torch's own does arithmetic without values, and takes a second to load
        signal = small_signal("image")
        field = build(cls, signal.spec, seed=0)
        field.condition(signal)
        save(field.baked(), tmp_path / f"{cls.name}.safetensors")
    code = ("import sys, pathlib, inr_scenes as inr\n"
            "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
            "    inr.open(path)\n"
            "    assert 'torch._dynamo' not in sys.modules, path\n")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_public_names_exist_and_are_documented():
    for name in inr_scenes.__all__:
        assert getattr(inr_scenes, name).__doc__, name


def test_public_names_win_over_submodules():
    for name in ("fit", "field", "render", "export", "open", "evaluate", "mesh"):
        if name in inr_scenes._HOME and name != "open":
            importlib.import_module(f"inr_scenes.{name}")
        assert callable(getattr(inr_scenes, name))


def test_every_setting_has_help():
    from inr_scenes.fit import FitConfig
    from inr_scenes.settings import help_of
    from inr_scenes.train import TrainConfig
    classes = [FitConfig, TrainConfig, *(f.Config for f in host().fields() + host().models()),
               *(s.Options for s in host().signals()),
               *(e.options for e, _ in host().collect("inr_exporters"))]
    for cls in classes:
        for f in dataclasses.fields(cls):
            assert help_of(cls).get(f.name), f"{cls.__qualname__}.{f.name}"


def test_flags_do_not_collide():
    from inr_scenes.cli.common import Output
    from inr_scenes.cli.run import RunOptions
    from inr_scenes.fit import FitConfig
    for field in host().fields():
        for signal in host().signals():
            if field.kinds is None or signal.kind in field.kinds:
                names = [f.name for cls in (RunOptions, FitConfig, field.Config, signal.Options, Output)
                         for f in dataclasses.fields(cls)]
                twice = {n for n in names if names.count(n) > 1}
                assert not twice, f"{field.name} × {signal.kind}: {twice}"


def test_flags_of_training_do_not_collide():
    from inr_scenes.cli.common import Output
    from inr_scenes.cli.encode import Encode
    from inr_scenes.cli.run import RunOptions
    from inr_scenes.cli.train import SetOptions
    from inr_scenes.train import TrainConfig
    for signal in host().signals():
        parts = [[RunOptions, SetOptions, TrainConfig, model.Config, signal.Options, Output]
                 for model in host().models()]
        for part in [*parts, [Encode, signal.Options, Output]]:
            names = [f.name for cls in part for f in dataclasses.fields(cls)]
            twice = {n for n in names if names.count(n) > 1}
            assert not twice, f"{part[-3].__qualname__} × {signal.kind}: {twice}"


def test_every_hook_is_taught():
    from inr_scenes import hookspecs
    text = (PACKAGE.parent / "plugins" / "README.md").read_text()
    for name in vars(hookspecs):
        if name.startswith("inr_"):
            assert name in text, f"plugins/README.md does not mention {name}"
