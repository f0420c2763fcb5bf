"""inr encode ARCHIVE SIGNAL… -o OUT: one pass through a trained model makes a field of each signal."""

import dataclasses
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError
from .common import Output, parse, words
from .fit import flags, values, wants_help


@dataclass(frozen=True)
class Encode:
    """What to encode, and how far to refine it."""

    archive: str
    """Archive of a trained model, or its run folder."""
    signals: tuple[str, ...]
    """Files or folders of the signals."""
    output: str | None = None
    """Archive to write; of several signals a folder."""
    steps: int = 0
    """Steps of test-time optimisation after the pass."""
    tune: str = "latents"
    """What those steps change: latents (the model stays as it is) or all (the decoder too)."""
    lr: float = 3e-3
    """Learning rate of the test-time optimisation of latents; a tenth of it with --tune all."""
    share: bool = False
    """Write only the latents, in --bits each, with the hash of the model they need."""
    bits: int = 8
    """Bits of each latent number with --share: 1 to 8."""
    windows: bool = True
    """What has another size than the model's training signals: encode overlapping windows of that size; off: in one
    piece, positions resampled."""
    overlap: float = 0.25
    """Share of a window that neighbours have in common; 0: fewest latents, borders may show."""
    views: tuple[int, ...] = ()
    """Light fields: support views that are encoded; default: all training views, at most five of them."""
    known: str | None = None
    """Images: a picture of the same size, bright where pixels are known; models that can complete the others."""
    overwrite: bool = False
    """Replace an output that is there."""
    device: str = "auto"
    """auto or a torch device."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Encode signals with a trained model. The results are ordinary archives: info, eval, export, render take them."""
    from ..archive import header, open
    from ..generalizable import GeneralizableField
    from ..plugins import find_signal, host

    loose = [arguments[i] for i in words(arguments, (Encode, Output, *(cls.Options for cls in host().signals())))]
    signal_cls = None
    if loose and not wants_help(arguments):
        head = header(loose[0])
        if head.get("role") != "model":
            raise InrError(f"{loose[0]} holds no generalizable model; inr train makes them.")
        signal_cls = find_signal(head["spec"]["kind"])
    parts = (Encode, Output, *((signal_cls.Options,) if signal_cls else ()))
    chosen = parse(parts, arguments, prog="encode", description=run.__doc__ or "", positional=("archive", "signals"))
    options = chosen[Encode]
    if options.output is None:
        raise InrError("name where to write with -o: an archive, or a folder for several signals.")
    if not options.signals:
        raise InrError("name a signal to encode: inr encode ARCHIVE SIGNAL… -o OUT.")
    given = flags(arguments)
    _check(options, given)
    targets = _targets(options)
    model = open(options.archive, device=options.device)
    if not isinstance(model, GeneralizableField):
        raise InrError(f"{options.archive} holds no generalizable model; inr train makes them.")
    load = {k: v for k, v in values(chosen[signal_cls.Options]).items() if k in given}
    results, failed = {}, []
    for path, target in zip(options.signals, targets):
        try:
            results[path] = _encode(model, signal_cls, path, target, options, load)
        except InrError as error:           # the others are still worth encoding
            failed.append(str(error))
    if failed:
        done = f" The other {len(results)} are in {targets[0].parent}." if results else ""
        raise InrError(f"{failed[0]}{f' And {len(failed) - 1} more failed.' if failed[1:] else ''}{done}")
    if len(targets) == 1:
        return next(iter(results.values()))
    psnr = [r["metrics"]["psnr"] for r in results.values() if "psnr" in r["metrics"]]
    return {"output": str(Path(options.output).expanduser()), "encoded": results,
            "metrics": {"psnr": sum(psnr) / len(psnr)} if psnr else {}}


def _check(options: Encode, given: set[str]) -> None:
    """Refuse what cannot be, and flags that would change nothing, before anything is read or written."""
    if options.steps < 0 or options.lr <= 0:
        raise InrError("--steps must be at least 0 and --lr above 0.")
    if options.tune not in ("latents", "all"):
        raise InrError(f"--tune {options.tune!r} is not known: latents or all.")
    if not 1 <= options.bits <= 8:
        raise InrError(f"--bits {options.bits} is not possible: 1 to 8.")
    if not options.steps and (idle := given & {"tune", "lr"}):
        raise InrError(f"--{min(idle)} says how to refine; give --steps too.")
    if not options.windows and "overlap" in given:
        raise InrError("--overlap is that of windows; leave --no-windows out.")
    if options.known is not None and given & {"windows", "overlap", "views"}:
        raise InrError("--known is for pictures read in one piece: leave --windows, --overlap and --views out.")
    if not options.share and "bits" in given:
        raise InrError("--bits says how finely --share stores the latents; give --share too.")
    if options.share and options.tune == "all":
        raise InrError("--share stores latents alone, so the decoder must stay: leave --tune all out.")
    for path in options.signals:
        if not Path(path).expanduser().exists():
            raise InrError(f"{path} does not exist.")


def _targets(options: Encode) -> list[Path]:
    output = Path(options.output).expanduser()
    if len(options.signals) == 1 and (output.suffix == ".safetensors" or not output.is_dir()):
        targets = [output if output.suffix else output.with_suffix(".safetensors")]
    elif output.suffix == ".safetensors":
        raise InrError(f"-o names a folder when several signals are encoded, as {output.with_suffix('')}.")
    else:
        targets = [output / f"{Path(path).stem}.safetensors" for path in options.signals]
    if len(set(targets)) < len(targets):
        raise InrError("Two of the signals have the same name; encode them into different folders.")
    for target in targets:
        if target.exists() and not options.overwrite:
            raise InrError(f"{target} is there already. Replace it with --overwrite or choose another place with -o.")
    return targets


def _encode(model, signal_cls, path: str, target: Path, options: Encode, load: dict[str, Any]) -> dict[str, Any]:
    from ..archive import open, save
    from ..windows import encode

    signal, seen = _load(model, signal_cls, path, options, load)
    start = time.perf_counter()
    field = encode(model, seen, signal.spec, options.windows and options.known is None, options.overlap)
    seconds = {"encode": time.perf_counter() - start}
    seen.to(field.device)                           # and with its views the whole light field
    if options.steps:
        start = time.perf_counter()
        refine(field, seen, options.steps, options.tune, options.lr, options.device)
        seconds["refine"] = time.perf_counter() - start
    share = options.bits if options.share else None
    facts = {"signal": str(path), "kind": signal.kind, "steps": options.steps,
             "seconds": round(sum(seconds.values()), 3), "model": _name(options.archive)}
    if share is not None:                           # measured as it will be opened: from the quantised latents
        save(field, target, fit=facts, share=share)
        field = open(target, model=model, device=options.device)
    metrics = signal.metrics(field.eval())
    if options.known is not None:
        metrics["psnr_known"] = seen.probe(field, len(seen))["psnr"]
    save(field, target, metrics=metrics, fit=facts, share=share)
    result = {"output": str(target), "field": model.name, "signal": str(path), "bytes": target.stat().st_size,
              "latents": sum(v.numel() for v in field.latents.values()), "steps": options.steps,
              "seconds": round(sum(seconds.values()), 4), "metrics": metrics}
    if signal.kind == "image" and share is not None and options.known is None:
        result["payload_bytes"] = sum(-(-v.numel() * share // 8) + 8 * v.shape[-1] for v in field.latents.values())
        result |= {"jpeg_bytes": jpeg_bytes(signal.array().cpu().numpy(), metrics["psnr"])}
    return result


def _name(archive: str) -> str:
    """Return how a model is found again from any folder: a trained model's name, else where its archive lies."""
    path = Path(archive).expanduser()
    return str(path.resolve()) if path.exists() else archive


def _load(model, signal_cls, path: str, options: Encode, load: dict[str, Any]):
    """Return the signal, and the part of it that is encoded."""
    from ..generalizable import SupportViews
    from ..validation import spread

    if options.known is not None and signal_cls.kind != "image":
        raise InrError(f"--known is for pictures; these signals are of kind {signal_cls.kind!r}.")
    if signal_cls.kind != "lightfield":
        if options.views:
            raise InrError("--views chooses support views of light fields; this model encodes whole signals.")
        signal = signal_cls.load(Path(path).expanduser(), **load).suited(model.spec)
        return signal, signal if options.known is None else _known(model, signal, options.known)
    if options.overlap != Encode.overlap or not options.windows:
        raise InrError("--overlap and --no-windows are for signals on a grid, not for light fields.")
    load = {"size": tuple(model.spec.meta["view_shape"]), **load}
    signal = signal_cls.load(Path(path).expanduser(), like=model.spec, **load)
    views = options.views or tuple(spread(len(signal.spec.cameras), 5))
    return signal, SupportViews(signal, views)


def _known(model, signal, mask: str):
    """Return the part of a picture that a mask says is known."""
    from ..generalizable import KnownSamples
    from ..problems.inpaint import read_mask

    if not model.completes:
        raise InrError(f"{model.name} reads whole signals and completes none. inr train siren-hyper, learned-init or "
                       f"lfn makes a model that does; inr solve inpaint fits a field to the known pixels alone.")
    return KnownSamples(signal, read_mask(mask, signal.spec.shape))


def refine(field, signal, steps: int, tune: str, lr: float, device: str = "auto") -> None:
    """Optimise an encoded field on its own signal: its latents alone, or the decoder with them at a tenth of `lr`."""
    from ..fit import FitConfig
    from ..fit import steps as fit_steps

    config = FitConfig(steps=steps, lr=lr if tune == "latents" else lr / 10, warmup=0, device=device)
    config = dataclasses.replace(config, batch=min(config.batch, len(signal)))
    for _ in fit_steps(field.tune(tune), signal, config):
        pass
    field.requires_grad_(False)


def jpeg_bytes(image, psnr: float) -> int:
    """Return the bytes of the smallest JPEG of an image (h, w, c) in [0, 1] that reaches a PSNR, or of the best one."""
    import numpy as np
    from PIL import Image

    from ..media import to_bytes
    from ..metrics import psnr as of

    pixels = to_bytes(image[..., 0] if image.shape[-1] == 1 else image[..., :3])
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(buffer), np.float64)
        if of(float(np.square((decoded - pixels) / 255).mean())) >= psnr:
            break
    return len(buffer.getvalue())
