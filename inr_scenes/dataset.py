"""Sets of signals: a folder decoded once into one file that is mapped, so that a set may be larger than memory."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .camera import Cameras
from .errors import InrError
from .metrics import psnr
from .settings import to_dict
from .signal import GridSignal, Signal
from .signals.lightfield import LightFieldSignal
from .spec import Spec

LAYOUT = 4                          # of the cache; another number is another cache


class RaySignal(Signal):
    """A light field out of a set: rays and values as they were decoded, of which only what is asked for is read."""

    kind = "lightfield"

    def __init__(self, spec: Spec, rays: np.ndarray, data: np.ndarray, gain: float, name: str):
        self.spec, self.rays, self.data, self.gain, self.name = spec, rays, data, gain, name

    def sample(self, index: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return rays (n, 6) and values (n, out) in the network's range."""
        rays, data = (torch.from_numpy(part[index.numpy()]) for part in (self.rays, self.data))
        return rays, self.spec.values.to_net(data.float() * self.gain)

    def metrics(self, field) -> dict[str, float]:
        """PSNR as the mean over views of each view's."""
        at, scores = 0, []
        for count in self.spec.cameras.size.prod(-1).tolist():
            rays, values = self.sample(torch.arange(at, at + count))
            with torch.no_grad():
                error = (field(rays.to(next(field.parameters()).device)).float().cpu() - values).double()
            scores.append(psnr(error.square().mean().item() * self.spec.values.scale**2))
            at += count
        return {"psnr": sum(scores) / len(scores)}


@dataclass(frozen=True)
class SignalSet:
    """Signals of one kind, each built from the mapped file when it is asked for.

    files: where they came from · specs: one a signal, equal ones the same object · starts: each one's first row of
    data, (rows, out) raw values, stored = raw · gain, and of rays, (rows, 6), of light fields · skipped: files that
    could not be read or do not fit, with the reason.
    """

    names: tuple[str, ...]
    files: tuple[str, ...]
    specs: tuple[Spec, ...]
    starts: tuple[int, ...]
    data: np.ndarray
    rays: np.ndarray | None
    gain: float
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Signal:
        """Return signal i, read from the file now."""
        rows = slice(self.starts[i], self.starts[i] + self.specs[i].size)
        if self.rays is not None:
            return RaySignal(self.specs[i], self.rays[rows], self.data[rows], self.gain, self.names[i])
        return GridSignal(self.specs[i], torch.from_numpy(np.array(self.data[rows])), self.gain, self.names[i])

    @property
    def spec(self) -> Spec:
        """The first signal's spec, which stands for all."""
        return self.specs[0]

    def fitting(self, crop: Sequence[int] = (), hint: str = "") -> "SignalSet":
        """Return the signals of the first one's size or, for parts of `crop` samples, all that are large enough.

        The others are among the `skipped`. hint: what brings signals to one size.
        """
        kept, left = [], []
        for i, spec in enumerate(self.specs):
            if crop and len(crop) == len(spec.axes):
                fits, why = all(n <= count for n, count in zip(crop, spec.shape)), f"smaller than {_times(crop)}."
            else:
                fits = (spec.shape, spec.size) == (self.spec.shape, self.spec.size)
                why = f"{self.names[0]} is {_size(self.spec)}; a set needs one size{f': {hint}' if hint else ''}."
            if fits:
                kept.append(i)
            else:
                left.append(f"{self.files[i]} is {_size(spec)}, {why}")
        if not kept:
            raise InrError(f"None of {len(self)} signals is large enough. The first: {left[0]}")
        columns = {name: tuple(getattr(self, name)[i] for i in kept) for name in ("names", "files", "specs", "starts")}
        return dataclasses.replace(self, skipped=(*self.skipped, *left), **columns)

    def part(self, numbers: Sequence[int]) -> "Subset":
        """Return some of the signals as a set of their own."""
        return Subset(self, tuple(int(n) for n in numbers))

    def split(self, held_out: int, seed: int = 0) -> tuple["Subset", "Subset"]:
        """Return (the rest, `held_out` signals chosen by `seed`); at least one stays for training."""
        training, rest = split_numbers(len(self), held_out, seed)
        return self.part(training), self.part(rest)


def split_numbers(count: int, held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the numbers below `count` for training, at least one, and the `held_out` ones chosen by `seed`."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = max(0, min(held_out, count - 1))
    return sorted(order[held_out:]), sorted(order[:held_out])


@dataclass(frozen=True)
class Subset:
    """Some signals of a set."""

    whole: SignalSet
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Signal:
        return self.whole[self.numbers[i]]

    def __iter__(self) -> Iterator[Signal]:
        return (self[i] for i in range(len(self)))

    @property
    def spec(self) -> Spec:
        """The whole set's spec."""
        return self.whole.spec


def open_set(folder, *, kind: str | None = None, options: Mapping[str, Any] | None = None, on_error: str = "skip",
             workers: int = 0, cache=None, crop: Sequence[int] = ()) -> SignalSet:
    """Return the signals of a folder: files of one kind, or sub-folders of posed views.

    Each is decoded once, in `workers` processes, into a file under `cache` (the user's by default), from which later
    runs read. All are of one size, but for parts of `crop` samples at least as large as that. on_error: "skip" names a
    file that cannot be read, or does not fit, in a warning and goes on, "stop" raises.
    """
    if on_error not in ("skip", "stop"):
        raise InrError(f"--on-error {on_error!r} is not known: skip or stop.")
    cls, paths = members(folder, kind)
    settings = cls.Options(**(options or {}))
    target = _cache(cache) / f"{Path(folder).resolve().name}-{_key(cls, settings, paths)}"
    if not (target / "index.json").is_file():
        _decode_all(cls, settings, paths, target, on_error, workers)
    hint = f"{cls.one_size}, or --crop for parts of them" if cls.one_size and cls.kind != "lightfield" else cls.one_size
    found = _read(target).fitting(crop, hint)
    for line in found.skipped:
        if on_error == "stop":
            raise InrError(f"{line} Take it away, or use --on-error skip.")
        warnings.warn(f"left out: {line}", stacklevel=2)
    return found


def members(folder, kind: str | None = None) -> tuple[type[Signal], list[Path]]:
    """Return the signal class and the paths of a set: the kind that most of the folder's entries are."""
    from .plugins import find_signal, host

    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InrError(f"{folder} is no folder. A set is a folder of signals of one kind.")
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    classes = [find_signal(kind)] if kind else host().signals()
    found = {cls: [p for p in entries if cls.accepts(p)] for cls in classes}
    cls = max(found, key=lambda c: len(found[c]), default=None)
    if cls is None or not found[cls]:
        raise InrError(f"{folder} holds no signals{f' of kind {kind}' if kind else ''}.")
    return cls, found[cls]


def _key(cls, settings, paths: Sequence[Path]) -> str:
    facts = [LAYOUT, cls.kind, to_dict(settings), str(paths[0].parent.resolve())]
    facts += [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    facts += [stamp for p in paths if p.is_dir() for stamp in _stamps(p, p.name)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _stamps(folder, name: str) -> Iterator[tuple[str, int, int]]:
    """Yield place, size and time of change of every file beneath a folder but hidden ones; none of them is read."""
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in found:
        place = f"{name}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _stamps(entry, place)
        elif entry.is_file():           # no link to nowhere
            yield place, entry.stat().st_size, entry.stat().st_mtime_ns


def _cache(cache) -> Path:
    if cache is not None:
        return Path(cache).expanduser()
    import pooch
    return Path(pooch.os_cache("inr_scenes")) / "sets"


def _decode(cls, settings, like: Spec | None, path: Path) -> dict[str, Any] | str:
    """Read one signal into plain arrays; or return the line that says why it cannot be read."""
    values = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    try:
        signal = cls.load(path, like=like, **values)
    except InrError as error:
        return str(error)
    found = {"name": signal.name, "spec": signal.spec.to_json(), "gain": getattr(signal, "gain", 1.0)}
    if isinstance(signal, GridSignal):
        return found | {"data": signal.data.numpy()}
    cameras = signal.spec.cameras
    if cameras is None:
        return f"{path} is of kind {signal.kind!r}, whose sets cannot be trained on."
    if len(signal) != signal.spec.size:
        return f"{path} has masked pixels; sets of light fields need whole views."
    rays, net = signal.sample(torch.arange(len(signal)))
    stored = signal.spec.values.to_stored(net)
    return found | {"rays": rays.numpy(), "data": (stored.clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
                    "gain": 1 / 255,
                    "cameras": {k: getattr(cameras, k).numpy() for k in ("poses", "focal", "centre", "size")}}


def _decode_all(cls, settings, paths, target: Path, on_error: str, workers: int) -> None:
    """Decode a set into a folder that appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        kept, skipped, files, specs, first = [], [], {}, {}, None
        for path, found in zip(paths, _decoded(cls, settings, paths, workers)):
            if first and not isinstance(found, str):
                channels, quantity = found["data"].shape[1], found["spec"]["meta"].get("quantity")
                if quantity != first["quantity"]:
                    found = f"{path} holds {quantity}, {kept[0][0]} {first['quantity']}; one for all: --quantity."
                elif channels != first["channels"]:
                    found = (f"{path} has {channels} channels, {kept[0][0]} has {first['channels']}"
                             f"{f'; bring them to one kind: {cls.one_size}' if cls.one_size else ''}.")
                else:
                    found["data"] = _as(found["data"], found["gain"], first)
            if isinstance(found, str):
                if on_error == "stop":
                    raise InrError(found)
                skipped.append(found)
                continue
            for key in ("data", "rays"):
                if key in found:
                    if key not in files:
                        files[key] = (place / key).open("wb")
                    files[key].write(np.ascontiguousarray(found[key]).tobytes())
            first = first or {"channels": found["data"].shape[1], "dtype": str(found["data"].dtype),
                              "gain": found["gain"], "quantity": found["spec"]["meta"].get("quantity")}
            number = specs.setdefault(json.dumps(found["spec"]), len(specs))
            cameras = {k: v.tolist() for k, v in found.get("cameras", {}).items()}
            kept.append([found["name"], str(path), number, cameras])
        for file in files.values():
            file.close()
        if not kept:
            raise InrError(f"None of {len(paths)} signals could be read. The first: {skipped[0]}")
        (place / "index.json").write_text(json.dumps(first | {"specs": [*specs], "signals": kept, "skipped": skipped}))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(place, target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _as(data: np.ndarray, gain: float, first: dict[str, Any]) -> np.ndarray:
    """Return raw values as the first signal's: a set holds one type and one gain, be some pictures of 16 bits."""
    if (str(data.dtype), gain) == (first["dtype"], first["gain"]):
        return data
    raw = data * (gain / first["gain"])
    return (raw.round() if np.issubdtype(first["dtype"], np.integer) else raw).astype(first["dtype"])


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _size(spec: Spec) -> str:
    """Return a signal's size in words."""
    shape = spec.shape
    if spec.cameras is not None:
        views = spec.cameras.size.tolist()
        shape = [len(views), *views[0]] if views.count(views[0]) == len(views) else [f"{len(views)} views"]
    return f"{_times(shape)} of {spec.out_features} channels"


def _decoded(cls, settings, paths, workers: int) -> Iterator[dict[str, Any] | str]:
    like = _frame(cls, settings, paths)
    if workers <= 0:
        yield from (_decode(cls, settings, like, path) for path in paths)
        return
    import multiprocessing

    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for low in range(0, len(paths), 64 * workers):      # so that no more than this waits in memory
            part = paths[low:low + 64 * workers]
            yield from pool.map(functools.partial(_decode, cls, settings, like), part, chunksize=8)


def _frame(cls, settings, paths) -> Spec | None:
    """Return what light fields of a set share: the frame and the size of the first that can be read."""
    for path in paths if issubclass(cls, LightFieldSignal) else ():
        try:
            return cls.load(path, **vars(settings)).spec
        except InrError:
            continue
    return None


def _read(target: Path) -> SignalSet:
    index = json.loads((target / "index.json").read_text())
    signals = index["signals"]
    known = [Spec.from_json(json.loads(spec)) for spec in index["specs"]]
    names, files, numbers, cameras = zip(*signals)
    specs = tuple(known[n].replace(cameras=_cameras(c)) if c else known[n] for n, c in zip(numbers, cameras))
    *starts, rows = itertools.accumulate((spec.size for spec in specs), initial=0)
    data = np.memmap(target / "data", index["dtype"], "r", shape=(rows, index["channels"]))
    rays = np.memmap(target / "rays", np.float32, "r", shape=(rows, 6)) if (target / "rays").is_file() else None
    return SignalSet(names, files, specs, tuple(starts), data, rays, index["gain"], tuple(index["skipped"]))


def _cameras(data: dict[str, Any]) -> Cameras:
    return Cameras(torch.tensor(data["poses"]), torch.tensor(data["focal"]), torch.tensor(data["centre"]),
                   torch.tensor(data["size"], dtype=torch.int64))
