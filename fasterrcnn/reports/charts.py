"""Charts by matplotlib: as SVG inside a page, in the page's own colors, and as PNG files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fasterrcnn.reports.drawing import PALETTE


class Colors(NamedTuple):
    """The colors of a chart that are no class's."""

    ink: str
    line: str
    bar: str
    bar2: str
    faint: str


_PAPER = Colors("#1b1f24", "#d1d9e0", "#0072b2", "#d55e00", "#59636e")
_PAGE = Colors("#010203", "#010204", "#010205", "#010206", "#010207")  # each stands for a variable
_SHADES = (4, 5, 2, 6, 0, 1)  # of the palette: those seen on white and on black
_FEW = 6  # classes that have a color and a name each
_SIZE = (5.6, 3.4)  # inches


class Line(NamedTuple):
    """A series of a chart."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure that is drawn when it is asked for, and what it shows in words."""

    title: str
    draw: Callable[[Axes, Colors], None]
    description: str  # for those who do not see it
    size: tuple[float, float] = _SIZE

    def svg(self, name: str) -> str:
        """The chart as an element of a page; `name` makes its ids unique there."""
        buffer = io.StringIO()
        with matplotlib.rc_context(_style(_PAGE)):
            self._figure(_PAGE).savefig(buffer, format="svg", transparent=True)
        return _as_element(buffer.getvalue(), name, f"{self.title}: {self.description}")

    def save_png(self, path: Path) -> None:
        """Write the chart with its title."""
        with matplotlib.rc_context(_style(_PAPER)):
            figure = self._figure(_PAPER)
            figure.axes[0].set_title(self.title)
            figure.savefig(path, dpi=200)

    def _figure(self, colors: Colors) -> Figure:
        figure = Figure(self.size, layout="constrained")
        self.draw(figure.add_subplot(), colors)
        return figure


def lines(
    title: str,
    x: str,
    y: str,
    series: Sequence[Line],
    *,
    marks: Sequence[tuple[float, str]] = (),
    limits: tuple[float, float] | None = None,
    log_x: bool = False,
) -> Chart:
    """Lines over numbers; `marks`: vertical lines with names."""

    def draw(axes: Axes, colors: Colors) -> None:
        for k, line in enumerate(series):
            color = _hex(_SHADES[k % len(_SHADES)])
            axes.plot(
                line.x, line.y, ".-" if line.dots else "-", color=color, label=line.name, lw=1.5
            )
        for at, name in marks:
            axes.axvline(at, color=colors.faint, lw=1, ls=":")
            axes.annotate(name, (at, 1), xycoords=("data", "axes fraction"), rotation=90,
                          ha="right", va="top", fontsize=9, color=colors.faint)  # fmt: skip
        axes.set(xlabel=x, ylabel=y)
        if limits:
            axes.set_ylim(*limits)
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(series[0].x, [f"{value:g}" for value in series[0].x])
            axes.minorticks_off()
        if len(series) > 1:
            axes.legend(fontsize=9)

    return Chart(title, draw, "; ".join(_in_words(line) for line in series))


def per_class(
    title: str, x: str, y: str, at: np.ndarray, values: np.ndarray, names: Sequence[str]
) -> Chart:
    """A thin line per class ``(K, C)`` and their mean; a mark where the mean is highest."""
    known = np.isfinite(values).all(axis=1)
    mean = values[known].mean(axis=0) if known.any() else np.zeros(len(at))
    best = int(mean.argmax())

    def draw(axes: Axes, colors: Colors) -> None:
        few = known.sum() <= _FEW
        for k in np.flatnonzero(known).tolist():
            look = {"color": _hex(k), "label": names[k]} if few else {"color": colors.faint}
            axes.plot(at, values[k], lw=1, alpha=1 if few else 0.35, **look)
        axes.plot(at, mean, color=colors.ink, lw=2.5, label=f"mean of {known.sum()} classes")
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(fontsize=9)

    return Chart(
        title, draw, f"mean of {known.sum()} classes: highest {mean[best]:.3f} at {at[best]:.3f}"
    )


def bars(title: str, x: str, names: Sequence[str], values: Sequence[float]) -> Chart:
    """Horizontal bars, the first on top."""

    def draw(axes: Axes, colors: Colors) -> None:
        drawn = axes.barh(range(len(names)), values, color=colors.bar)
        axes.bar_label(drawn, [f"{value:.1f}" for value in values], padding=3, fontsize=9)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel=x)
        axes.grid(axis="y", visible=False)

    shown = ", ".join(f"{n} {v:.1f}" for n, v in zip(names, values, strict=True))
    return Chart(title, draw, shown, (5.6, 0.9 + 0.36 * len(names)))


def calibration(bins: Sequence[dict[str, float]]) -> Chart:
    """How often detections of a score are right."""
    used = [one for one in bins if one["count"]]

    def draw(axes: Axes, colors: Colors) -> None:
        axes.plot([0, 1], [0, 1], color=colors.faint, lw=1, ls="--", label="perfect")
        low, high = ([one[key] for one in used] for key in ("bin_lower", "bin_upper"))
        widths = [b - a for a, b in zip(low, high, strict=True)]
        axes.bar(low, [one["avg_accuracy"] for one in used], widths, align="edge", color=colors.bar,
                 edgecolor=colors.line, label="right at IoU 0.5")  # fmt: skip
        axes.plot([one["avg_confidence"] for one in used], [one["avg_accuracy"] for one in used],
                  ".", color=colors.bar2, ms=9, label="mean score")  # fmt: skip
        axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        axes.legend(fontsize=9)

    shown = (f"{one['avg_confidence']:.2f}: {one['avg_accuracy']:.2f}" for one in used)
    return Chart("Calibration", draw, f"mean score and share that is right: {', '.join(shown)}")


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Chart:
    """Rows of ``(K + 1, K + 1)`` divided by their sums; the last row and column are background."""
    sums = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, sums, np.zeros(matrix.shape), where=sums > 0)
    labels = [*names, "background"]
    few = len(labels) <= 21
    side = min(10.0, 2.2 + 0.42 * len(labels)) if few else 8.0

    def draw(axes: Axes, colors: Colors) -> None:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        axes.grid(visible=False)
        axes.set(xlabel="detected", ylabel="annotated")
        if not few:
            number = f"class 0 to {len(names) - 1}, {len(names)}: background"
            axes.set(xlabel=f"detected ({number})", ylabel=f"annotated ({number})")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            return
        ticks = range(len(labels))
        axes.set_xticks(ticks, labels, rotation=90)
        axes.set_yticks(ticks, labels)
        for i, j in zip(*np.nonzero(matrix), strict=True):
            color = "#ffffff" if shares[i, j] > 0.5 else "#1b1f24"
            axes.text(
                j, i, f"{shares[i, j]:.2f}", ha="center", va="center", color=color, fontsize=8
            )

    right = np.diag(shares)[:-1].mean() if len(names) else 0.0
    shown = f"on average {right:.2f} of the boxes of a class are found as this class"
    return Chart("Confusion matrix", draw, shown, (side, side))


def _as_element(text: str, name: str, description: str) -> str:
    """A file of matplotlib's as an element: no declaration, metadata or style of its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    for field, color in _PAGE._asdict().items():
        text = text.replace(color, f"var(--{field})")
    escaped = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    attributes = 'xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
    return text.replace("<svg ", f'<svg {attributes} aria-label="{escaped}" ', 1)


def _style(colors: Colors) -> Any:
    """What matplotlib is told."""
    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "fasterrcnn",  # ids that do not differ from call to call
        "font.family": "sans-serif",
        "font.size": 11,
        "text.parse_math": False,  # a class may be called $x$
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "legend.frameon": False,
        **dict.fromkeys(inked, colors.ink),
        **dict.fromkeys(("axes.edgecolor", "grid.color"), colors.line),
    }


def _hex(k: int) -> str:
    r, g, b = PALETTE[k % len(PALETTE)]
    return f"#{r:02x}{g:02x}{b:02x}"


def _in_words(line: Line) -> str:
    values = np.asarray(line.y, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return f"{line.name}: no values"
    ends = f"from {values[0]:.3g} to {values[-1]:.3g}"
    return f"{line.name} {ends}, lowest {values.min():.3g}, highest {values.max():.3g}"
