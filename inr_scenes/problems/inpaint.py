"""Inpainting: an image from some of its pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InrError
from ..field import Field, Recipe, decode_all
from ..files import readable
from ..metrics import psnr
from ..signal import GridSignal
from ..signals.image import ImageSignal, read_image
from ..spec import Spec
from . import changed
from .priors import PriorOptions, RegularisedProblem


class Inpainting(RegularisedProblem):
    """An image known at some pixels only: a random share of them, or those a mask names."""

    name = "inpaint"
    suffixes = ImageSignal.suffixes

    @dataclass(frozen=True)
    class Options(PriorOptions):
        """Which pixels are known."""

        keep: float = 0.1
        """Share of pixels that are known, drawn at random."""
        mask: str | None = None
        """Image file of the same size, bright where pixels are known; goes before --keep."""
        mask_seed: int = 0
        """Seeds the choice of pixels."""

    def __init__(self, spec: Spec, values: Tensor, known: Tensor, options: Options, truth: GridSignal | None = None):
        if not len(known):
            raise InrError("No pixel is known: the mask is dark, or the image transparent, everywhere. "
                           "Make known ones bright or opaque.")
        super().__init__(spec, values, truth, options)
        self.known = known

    @classmethod
    def simulate(cls, signal: GridSignal, options: Options) -> "Inpainting":
        """Forget the pixels that the mask or the draw does not keep."""
        if options.mask is not None:
            known = read_mask(options.mask, signal.spec.shape)
        else:
            if not 0 < options.keep <= 1:
                raise InrError(f"--keep {options.keep} must be above 0 and at most 1.")
            generator = torch.Generator().manual_seed(options.mask_seed)
            count = max(1, round(options.keep * len(signal)))
            known = torch.randperm(len(signal), generator=generator)[:count].sort().values
        return cls(signal.spec, signal.sample(known)[1], known, options, signal)

    @classmethod
    def read(cls, path, options: Options) -> "Inpainting":
        """Read an image with holes: the mask, or else the image's own transparency, says where."""
        image = ImageSignal.load(path)
        if options.mask is not None:
            known = read_mask(options.mask, image.spec.shape)
        elif image.spec.out_features == 4:
            known = (image.stored(slice(None))[:, 3] > 0.5).nonzero()[:, 0]
            image = ImageSignal.from_array(image.array()[..., :3].numpy(), bits=image.spec.meta["bits"])
        else:
            raise InrError(f"Which pixels of {path} are known? Give --mask FILE, or an image with transparent holes.")
        return cls(image.spec, image.sample(known)[1], known, options)

    def coords(self, index: Tensor) -> Tensor:
        """Return the coordinates (n, 2) of known pixels `index`."""
        return self.spec.coords(self.known[index])

    def array(self) -> Tensor:
        """Return the known pixels on a black image, (h, w, channels)."""
        image = torch.zeros(self.spec.size, self.spec.out_features, device=self.device)
        image[self.known] = super().array()
        return image.reshape(*self.spec.shape, -1)

    def metrics(self, field) -> dict[str, float]:
        """The image's metrics, and PSNR over the pixels that were not known ("psnr_hidden")."""
        result = super().metrics(field)
        if self.truth is not None and len(self.known) < self.spec.size:
            hidden = torch.ones(self.spec.size, dtype=torch.bool)
            hidden[self.known.cpu()] = False
            error = decode_all(field, self.spec).clamp(0, 1) - self.truth.array().cpu()
            result["psnr_hidden"] = psnr(error.flatten(0, 1)[hidden].double().square().mean().item())
        return result

    def adapt(self, recipe: Recipe, field: type[Field], preset: str) -> Recipe:
        """Published: SIREN's 10,000 full batches. Fast: the field's own settings, from lower frequencies."""
        if preset == "published":
            return recipe
        return changed(recipe, field, config={"first_omega_0": 15.0}, batch=8192)


def read_mask(path, shape: tuple[int, ...]) -> Tensor:
    """Return the flat indices of the bright pixels of a mask file: above half its brightest, be that 255, 1 or 1.0."""
    array = read_image(readable(path), "grey")[0][..., 0]
    if array.shape != tuple(shape):
        raise InrError(f"The mask {path} has {array.shape[0]}×{array.shape[1]} pixels, the image "
                       f"{shape[0]}×{shape[1]}: they must agree.")
    bright = array > array.max() / 2
    return torch.from_numpy(bright.reshape(-1)).nonzero()[:, 0]
