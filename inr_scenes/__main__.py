"""`python -m inr_scenes` is `inr`."""

import sys

from .cli import main

sys.exit(main())
