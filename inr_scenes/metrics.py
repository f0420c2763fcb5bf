"""Plain metrics: PSNR, SSIM, SNR, IoU."""

import math
from collections.abc import Iterable

import numpy as np

WINDOW = 7                          # pixels along a side of what SSIM compares at once

def psnr(mse: float, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error; 100 dB stands for "equal", NaN for a silent signal."""
    if not math.isfinite(mse) or (mse and not peak):
        return float("nan")
    return min(100.0, 10 * math.log10(peak**2 / mse)) if mse > 0 else 100.0


def peak_of(values) -> float:
    """Return what a PSNR takes as full scale, in stored units, of a spec's ValueMap.

    What swings about zero, as sound and signed distances do, has its greatest value; colours and occupancy have 1.
    """
    return values.scale if values.shift == 0 else 1.0


def reaches(name: str, value: float, goal: float) -> bool:
    """Say whether a metric is at least as good as `goal`: for errors at most as large, for others at least."""
    return value <= goal if name in ("chamfer", "mse", "mae") or name.endswith("_error") else value >= goal


def ssim(truth: np.ndarray, image: np.ndarray) -> float:
    """Structural similarity of two (h, w, c) images in [0, 1]; NaN for images smaller than its window."""
    from skimage.metrics import structural_similarity

    if min(truth.shape[:2]) < WINDOW:
        return float("nan")
    return float(structural_similarity(truth, image, channel_axis=-1, data_range=1.0))


def psnr_ssim(bands: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """PSNR and SSIM of one image that comes as bands of rows, top to bottom: (truth, image), (h, w, c) in [0, 1] each.

    Both are those of the whole image at once, but for rounding.
    """
    squared, count, similar, rows, above = 0.0, 0, 0.0, 0, None
    for truth, image in bands:
        squared += float(np.square(truth - image, dtype=np.float64).sum())
        count += truth.size
        if above is not None:                               # rows whose window reaches into the band above
            truth, image = (np.concatenate([a[1 - WINDOW:], b]) for a, b in zip(above, (truth, image)))
        above = truth, image
        whole = max(0, len(truth) - WINDOW + 1)
        similar += whole * ssim(truth, image) if whole else 0.0
        rows += whole
    return {"psnr": psnr(squared / count), "ssim": similar / rows if rows else float("nan")}


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Fréchet distance of two sets of features (n, d) as if each were normal: 0 for equal means and covariances.

    Heusel et al., NeurIPS 2017, whose FID takes the features of one particular network; here they are anybody's.
    """
    means = one.mean(0) - other.mean(0)
    first, second = (np.cov(features, rowvar=False).reshape(features.shape[1], -1) for features in (one, other))
    shared = np.linalg.eigvals(first @ second).real.clip(0)
    return float(means @ means + np.trace(first) + np.trace(second) - 2 * np.sqrt(shared).sum())


def iou(truth: np.ndarray, guess: np.ndarray) -> float:
    """Intersection over union of two boolean arrays; 1 where both are empty."""
    union = np.count_nonzero(truth | guess)
    return np.count_nonzero(truth & guess) / union if union else 1.0
