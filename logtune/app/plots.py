"""Numbers -> SVG text for the report: inline, deterministic, in the page's own colours (light and dark).

Matplotlib draws with stand-in colours that are replaced by CSS variables; ids get the plot's name as prefix, since
several plots share one page. Texts stay texts, so they can be read aloud, searched and enlarged.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup, escape

from logtune.app.console import fit, one_line
from logtune.statistics import Interval as Bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.0  # inches: 360 points, readable on a phone without enlarging
INK, FAINT, GOOD, BAD, CALM = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "--ink", FAINT: "--line", GOOD: "--good", BAD: "--bad", CALM: "--calm"}
LABEL = 26  # letters of a row's label
RC: Mapping[str, object] = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5, "text.color": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": FAINT, "axes.linewidth": 0.8, "text.parse_math": False,
    "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip


class Bar(NamedTuple):
    """One row of a bar plot."""

    label: str
    value: float
    tone: str = CALM
    note: str = ""  # written behind the bar


class Interval(NamedTuple):
    """One row of an interval plot, each number in 0..1."""

    label: str
    low: float
    middle: float
    high: float
    tone: str = CALM


class Line(NamedTuple):
    """One line over whole steps from 1."""

    label: str
    values: Sequence[float]


def bars(name: str, alt: str, rows: Sequence[Bar]) -> Markup:
    """Horizontal bars, the first on top, each with its note."""
    with _drawing(name):
        figure, axes = _figure(0.5 + 0.27 * len(rows))
        axes.barh(range(len(rows)), [row.value for row in rows], color=[row.tone for row in rows], height=0.62)
        for place, row in enumerate(rows):
            axes.annotate(
                row.note or f"{row.value:,.0f}", (row.value, place), (4, 0), textcoords="offset points", va="center"
            )
        _labels(axes, [row.label for row in rows])
        axes.set_xlim(0, 1.22 * max((row.value for row in rows), default=0) or 1)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        return _svg(figure, name, alt)


def intervals(name: str, alt: str, rows: Sequence[Interval], mark: float, axis: str) -> Markup:
    """A dot with its interval a row, and a dashed line at `mark`."""
    with _drawing(name):
        figure, axes = _figure(0.75 + 0.32 * len(rows))
        for place, row in enumerate(rows):
            axes.plot(
                [row.low, row.high],
                [place, place],
                color=row.tone,
                linewidth=2.2,
                solid_capstyle="round",
                clip_on=False,
            )
            axes.plot([row.middle], [place], color=row.tone, marker="o", markersize=6, clip_on=False)
        axes.axvline(mark, color=INK, linewidth=1, dashes=(3, 3))
        _labels(axes, [row.label for row in rows])
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.set_xlabel(axis)
        return _svg(figure, name, alt)


def curves(name: str, alt: str, lines: Sequence[Line], steps: str, axis: str) -> Markup:
    """Lines over whole steps, each labelled at its end."""
    with _drawing(name):
        figure, axes = _figure(2.3)
        longest = max((len(line.values) for line in lines), default=1)
        for number, line in enumerate(lines):
            style = ("-", "--", ":", "-.")[number % 4]
            axes.plot(
                range(1, len(line.values) + 1),
                line.values,
                style,
                color=CALM,
                marker="o",
                markersize=4,
                label=line.label,
            )
        axes.set_xticks(range(1, longest + 1))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(steps)
        axes.set_ylabel(axis)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8.5, handlelength=3)
        return _svg(figure, name, alt)


def sequence(name: str, alt: str, course: Sequence[tuple[int, Bounds]]) -> Markup:
    """A confidence sequence: the band in which the difference lies, over users."""
    with _drawing(name):
        figure, _ = _band(course)
        return _svg(figure, name, alt)


def sequence_png(title: str, course: Sequence[tuple[int, Bounds]]) -> bytes:
    """The same as a picture of its own."""
    with _drawing(title):
        figure, axes = _band(course)
        figure.set_facecolor("white")
        axes.set_title(title)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
        return drawn.getvalue()


def _band(course: Sequence[tuple[int, Bounds]]) -> "tuple[Figure, Axes]":
    figure, axes = _figure(2.6)
    users = [count for count, _ in course]
    low, high = ([100 * getattr(found, end) for _, found in course] for end in ("low", "high"))
    axes.fill_between(users, low, high, color=CALM, alpha=0.25, linewidth=0)
    axes.plot(users, low, color=CALM)
    axes.plot(users, high, color=CALM)
    axes.axhline(0, color=INK, linewidth=1, dashes=(3, 3))
    last = course[len(course) // 3 :]
    edge = 100 * max(0.05, *(max(abs(found.low), abs(found.high)) for _, found in last))
    axes.set_ylim(-edge, edge)
    axes.set_xlabel("users")
    axes.set_ylabel("difference, points")
    return figure, axes


def _drawing(name: str) -> "_Style":
    return _Style(name)


class _Style:
    """The plot's settings, and silence about letters that the measuring font lacks: the reader's fonts draw them."""

    def __init__(self, name: str) -> None:
        import matplotlib

        self.rc = matplotlib.rc_context({**RC, "svg.hashsalt": name})  # type: ignore[dict-item]
        self.quiet = warnings.catch_warnings()

    def __enter__(self) -> None:
        self.rc.__enter__()
        self.quiet.__enter__()
        warnings.filterwarnings("ignore", message="Glyph .* missing from")

    def __exit__(self, *error: object) -> None:
        self.quiet.__exit__(None, None, None)
        self.rc.__exit__(None, None, None)


def _figure(height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _labels(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [fit(one_line(label), LABEL) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _svg(figure: "Figure", name: str, alt: str) -> Markup:
    """The figure as an inline element: sized by the page, named for screen readers."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = drawn.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<defs>\s*</defs>", "", text[text.index("<svg") :], flags=re.S
    )
    text = re.sub(r'\bid="([^"]+)"', lambda found: f'id="{name}-{found[1]}"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', lambda found: f"{found[1]}{name}-", text)
    text = re.sub(  # a function, since a backslash in a label is no group
        r'<svg\b.*?viewBox="([^"]+)".*?>',
        lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{escape(alt)}">',
        text,
        count=1,
        flags=re.S,
    )
    text = re.sub(r'font-family: [^;"]*; ?', "", text.replace("xlink:href", "href"))
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return Markup(text)  # matplotlib escapes the labels, and `alt` is escaped above
