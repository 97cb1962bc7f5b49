"""How pixels are read from a file, whatever is stored there: what a recipe's input says of it."""

from __future__ import annotations

from typing import NamedTuple

from fasterrcnn import nodata


class PixelFormat(NamedTuple):
    """What decoded pixels are to be."""

    value_range: str | None = None  # `recipes.Input.value_range`; None: values as stored
    channels: int = 3  # 3, without `bands`: RGB; 0: all bands as stored
    bands: tuple[int, ...] = ()  # of the file, from 1, in the order of the channels
    nodata: str = nodata.NONE  # `recipes.Input.nodata`
    fill: tuple[float, ...] = ()  # what takes the place of nodata: per channel or for all; (): NaN

    @property
    def is_rgb(self) -> bool:
        """Whether pixels are RGB: gray is repeated, alpha dropped."""
        return self.channels == 3 and not self.bands

    @property
    def has_nodata(self) -> bool:
        """Whether pixels may hold no data."""
        return self.nodata not in (nodata.DATASET, nodata.NONE)

    def drawn(self, shown: tuple[int, ...]) -> PixelFormat:
        """To draw with: `shown` bands, black where there is no data; without any, as it is."""
        return self._replace(channels=len(shown), bands=shown, fill=(0.0,)) if shown else self


AS_STORED = PixelFormat(None, 0, nodata=nodata.FILE)
FULL = PixelFormat("full")
DRAWN = PixelFormat("image", 0, nodata=nodata.FILE, fill=(0.0,))
