import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inr_scenes import plugins
from inr_scenes.errors import InrError

ROOT = Path(__file__).parents[1]


def tutorial_files(folder: Path) -> None:
    """Write the files that plugins/README.md shows."""
    text = (ROOT / "plugins" / "README.md").read_text()
    for name, body in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, re.S):
        (folder / name).write_text(body)


@pytest.fixture
def fresh(monkeypatch):
    """A host that is loaded anew, and once more after the test."""
    plugins.host.cache_clear()
    yield monkeypatch
    plugins.host.cache_clear()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    y, x = np.mgrid[0:20, 0:30]
    Image.fromarray(np.stack([x * 8, y * 12, 120 + 0 * x], -1).astype(np.uint8)).save(path)
    return path


def command(*arguments, env=None, cwd=None):
    import os
    return subprocess.run([sys.executable, "-m", "inr_scenes", *map(str, arguments)], capture_output=True, text=True,
                          cwd=cwd, env={**os.environ, **(env or {})})


def test_tutorial_plugin_as_one_file(tmp_path, photo):
    tutorial_files(tmp_path)
    env = {"INR_PLUGINS": "gauss.py"}
    done = command("fit", "gauss", photo, "--steps", "30", "--sharpness", "4", "-o", "run", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path, done.stdout.strip()).is_file()
    missing = command("export", "run", "out.png", cwd=tmp_path)
    assert missing.returncode == 1 and "needs the field 'gauss'" in missing.stderr


def test_tutorial_plugin_passes_its_own_test(tmp_path):
    tutorial_files(tmp_path)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_gauss.py"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_plugin_installed_with_pip(tmp_path, photo):
    """Install the tutorial's package into an environment that borrows this one's packages, and use its field."""
    source = tmp_path / "source"
    source.mkdir()
    tutorial_files(source)
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target",
                    str(target), str(source)], check=True, capture_output=True)
    env = {"PYTHONPATH": str(target)}
    shown = command("plugins", "--json", env=env)
    assert '"gauss": "inr-gauss 0.1.0"' in shown.stdout, shown.stdout
    assert "gauss" in command("list", env=env).stdout
    done = command("fit", "gauss", photo, "--steps", "30", "-o", tmp_path / "run", env=env)
    assert done.returncode == 0, done.stderr
    assert '"plugin": "inr-gauss 0.1.0"' in command("info", tmp_path / "run", "--json", env=env).stdout


@pytest.mark.parametrize("body, error", [
    ("raise RuntimeError('broken on purpose')", "RuntimeError: broken on purpose"),
    ("import sys; sys.exit(3)", "SystemExit: 3"),
    ("def f(:", "SyntaxError"),
    ("import inr_scenes as inr\n@inr.hookimpl\ndef inr_feilds():\n    return []", "unknown hook 'inr_feilds'"),
    ("import inr_scenes as inr\n@inr.hookimpl\ndef inr_fields():\n    return 1/0", "ZeroDivisionError"),
])
def test_a_broken_plugin_disturbs_nobody(tmp_path, photo, fresh, inr, body, error):
    (tmp_path / "broken.py").write_text(textwrap.dedent(body))
    fresh.setenv("INR_PLUGINS", "broken.py")
    status, _, err = inr("fit", "siren", photo, "--steps", "2", "--hidden-features", "8", "-o", "run")
    assert status == 0, err
    status, out, _ = inr("plugins")
    assert status == 0 and "broken" in out and error in out
    status, _, err = inr("fit", "sirn", photo)
    assert status == 1 and "Did you mean siren?" in err and error in err


@pytest.mark.parametrize("hook", ["inr_priors", "inr_weights"])
def test_a_plugin_that_breaks_in_a_hook_is_no_sound_one(tmp_path, fresh, inr, hook):
    from inr_scenes.cli import doctor
    (tmp_path / "broken.py").write_text(f"import inr_scenes as inr\n@inr.hookimpl\ndef {hook}():\n    return 1/0")
    fresh.setenv("INR_PLUGINS", "broken.py")
    status, out, _ = inr("plugins")
    assert status == 0 and f"{hook}: ZeroDivisionError" in out
    plugins.host.cache_clear()
    with pytest.raises(InrError, match=f"broken: {hook}: ZeroDivisionError"):
        doctor._plugins()


def test_one_name_twice_names_both(tmp_path, fresh):
    body = ("import inr_scenes as inr\nclass A(inr.Field):\n    name = 'same'\n"
            "@inr.hookimpl\ndef inr_fields():\n    return [A]\n")
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(body)
    fresh.setenv("INR_PLUGINS", f"{tmp_path / 'one.py'},{tmp_path / 'two.py'}")
    with pytest.raises(InrError, match=r"one\.py.*two\.py"):
        plugins.find_field("same")
    assert plugins.conflicts()
    assert plugins.find_field("siren").name == "siren"


def test_two_plugins_of_one_name(tmp_path, fresh):
    for folder, name in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "gauss.py").write_text(
            f"import inr_scenes as inr\nclass A(inr.Field):\n    name = '{name}'\n"
            f"@inr.hookimpl\ndef inr_fields():\n    return [A]\n")
    fresh.setenv("INR_PLUGINS", f"{tmp_path / 'a/gauss.py'},{tmp_path / 'b/gauss.py'}")
    assert plugins.find_field("first").name == "first"
    with pytest.raises(InrError, match=r"a/gauss\.py.*b/gauss\.py"):
        plugins.find_field("second")


def test_every_kind_of_thing_comes_through_hooks(tmp_path, photo, fresh, inr):
    """One file brings a signal type, a problem, an exporter and a command; the command line uses each."""
    (tmp_path / "more.py").write_text(textwrap.dedent("""
        import dataclasses
        import numpy as np
        import inr_scenes as inr
        from inr_scenes.hookspecs import Command, Exporter
        from inr_scenes.problems.denoise import Denoising
        from inr_scenes.signals.image import ImageSignal

        class Table(ImageSignal):
            kind, suffixes = "table", (".table",)

            @classmethod
            def load(cls, path, *, like=None, **options):
                signal = ImageSignal.from_array(np.loadtxt(path), name=path.stem)
                return cls(signal.spec.replace(kind="table"), signal.data, signal.gain, path.stem)

        class Noise(Denoising):
            name = "more-noise"

        @dataclasses.dataclass(frozen=True)
        class Digits:
            digits: int = 2

        def write(field, path, options):
            from inr_scenes.field import decode_all
            np.savetxt(path, decode_all(field)[..., 0].numpy(), fmt=f"%.{options.digits}f")
            return {"digits": options.digits}

        @inr.hookimpl
        def inr_signals():
            return [Table]

        @inr.hookimpl
        def inr_problems():
            return [Noise]

        @inr.hookimpl
        def inr_exporters():
            return [Exporter("table", frozenset({"table"}), (".table",), Digits, write)]

        @inr.hookimpl
        def inr_commands():
            return [Command("count", "count arguments", lambda arguments: {"count": len(arguments)})]
    """))
    fresh.setenv("INR_PLUGINS", "more.py")
    np.savetxt(tmp_path / "a.table", np.full((6, 8), 0.5))
    status, _, err = inr("fit", "siren", "a.table", "--steps", "2", "--hidden-features", "8", "-o", "run")
    assert status == 0, err
    status, _, err = inr("export", "run", "out.table", "--digits", "4")
    assert status == 0 and (tmp_path / "out.table").read_text().split()[0].count("0") <= 6, err
    assert np.loadtxt(tmp_path / "out.table").shape == (6, 8)
    assert "more-noise" in inr("list")[1]
    status, _, err = inr("solve", "more-noise", "siren", photo, "--steps", "2", "--hidden-features", "8", "-o", "out")
    assert status == 0, err
    assert inr("count", "a", "b")[1].split() == ["count", "2"]


def test_no_plugins(fresh):
    fresh.setenv("INR_NO_PLUGINS", "1")
    assert [p.name for p in plugins.host().plugins] == ["built-in"]


def test_missing_file_is_reported(fresh):
    fresh.setenv("INR_PLUGINS", "nowhere.py")
    assert "does not exist" in plugins.host().plugins[-1].error


def test_exporter_not_found_lists_what_there_is():
    with pytest.raises(InrError, match=r"\.png"):
        plugins.find_exporter("image", ".docx")


def test_a_plugin_brings_trained_archives_by_name(fresh, tmp_path, photo, inr):
    assert inr("fit", "siren", photo, "--steps", 2, "-o", "run", "--hidden-features", 8, "--device", "cpu")[0] == 0
    (tmp_path / "brought.py").write_text(textwrap.dedent("""
        from pathlib import Path
        from inr_scenes import hookimpl
        from inr_scenes.hookspecs import Weights

        @hookimpl
        def inr_weights():
            return [Weights("tiny-photo", Path(__file__).parent / "run" / "field.safetensors", "a photo, badly fitted")]
        """))
    fresh.setenv("INR_PLUGINS", str(tmp_path / "brought.py"))
    plugins.host.cache_clear()
    status, _, err = inr("export", "tiny-photo", "out.png")
    assert status == 0 and Image.open(tmp_path / "out.png").size == (30, 20), err
    assert "tiny-photo" in inr("list")[1]
    status, _, err = inr("info", "tiny-phot")
    assert status == 1 and "does not exist" in err and "tiny-photo" in err
