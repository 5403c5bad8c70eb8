"""A comparison as plots (PNG) and one page that shows them with the numbers behind them."""

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compare_figures import BASE, OURS, Found, Results, points, streams

from logtune.records import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (8.0, 4.5)  # inches
COLUMNS = (
    "system", "week", "seeds", "quality", "against base", "95% interval", "prompt tokens", "latency, ms",
    "learning, s", "training tokens", "adapters, % of base", "retention",
)  # fmt: skip
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:.85rem}td,th{padding:.2rem .6rem;text-align:right}"
    "td,th{border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}caption{text-align:left;font-weight:600}"
)


def write(out: Path, results: Results, figures: Mapping[str, Json]) -> list[Path]:
    """Write the plots and index.html into the folder; returns the plots."""
    plots = [path for stream in streams(results) for path in _plots(out, stream, of_stream(results, stream))]
    (out / "index.html").write_text(page(results, figures, [path.name for path in plots]), encoding="utf-8")
    return plots


def of_stream(results: Results, stream: str) -> dict[str, list[Found]]:
    """System -> its weeks, in order; ours last, so that it is drawn over the others."""
    systems: dict[str, list[Found]] = {}
    for (name, system, _), found in sorted(results.items(), key=lambda item: item[0][2]):
        if name == stream:
            systems.setdefault(system, []).append(found)
    return dict(sorted(systems.items(), key=lambda item: item[0] == OURS))


def _plots(out: Path, stream: str, systems: Mapping[str, Sequence[Found]]) -> Iterator[Path]:
    from matplotlib.figure import Figure

    for name, draw in (("weeks", _weeks), ("tokens", _tokens)):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes, systems)
        axes.set_title(f"{stream}: {'quality week by week' if name == 'weeks' else 'quality and what it takes'}")
        axes.grid(visible=True, alpha=0.3)
        figure.savefig(out / f"{stream}-{name}.png", dpi=110)
        yield out / f"{stream}-{name}.png"


def _weeks(axes: "Axes", systems: Mapping[str, Sequence[Found]]) -> None:
    """A line a system."""
    for system, weeks in systems.items():
        axes.plot(
            [found.week for found in weeks], [found.quality for found in weeks], label=system, marker="o",
            linewidth=3 if system == OURS else 1.5, linestyle="--" if system == BASE else "-",
        )  # fmt: skip
    axes.set_xticks(sorted({found.week for weeks in systems.values() for found in weeks}))
    axes.set(xlabel="weeks of logs", ylabel="mean score on held-out requests of all topics so far", ylim=(-0.02, 1.02))
    axes.legend(loc="best", fontsize="small")


def _tokens(axes: "Axes", systems: Mapping[str, Sequence[Found]]) -> None:
    """A dot a system after its last week."""
    for system, weeks in systems.items():
        last = weeks[-1]
        axes.scatter(last.prompt_tokens, last.quality, s=70 if system == OURS else 35)
        place = (last.prompt_tokens, last.quality)
        axes.annotate(f"{system}, week {last.week}", place, (5, 3), textcoords="offset points", fontsize="small")
    axes.set(
        xlabel="prompt tokens a request", ylabel="mean score on held-out requests", ylim=(-0.02, 1.02), xscale="log"
    )


def page(results: Results, figures: Mapping[str, Json], plots: Sequence[str]) -> str:
    """The page."""
    rows = [(key, value) for key, value in figures.items() if key != "measured"]
    body = [f"<h1>Systems that learn from their own logs</h1>{_table(('figure', 'value'), rows, 'Figures')}"]
    for stream in streams(results):
        body.append(f"<h2>{html.escape(stream)}</h2>")
        body += [f'<img src="{html.escape(n)}" alt="{html.escape(n)}">' for n in plots if n.startswith(f"{stream}-")]
        body.append(_table(COLUMNS, list(_rows(of_stream(results, stream))), "Week by week"))
    head = f'<meta charset="utf-8"><title>Comparison</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _rows(systems: Mapping[str, Sequence[Found]]) -> Iterator[tuple[object, ...]]:
    base = {found.week: found for found in systems.get(BASE, ())}
    for system, weeks in systems.items():
        for found in weeks:
            gain = points(found.scores, base[found.week].scores) if found.week in base else None
            kept = sum(found.retention.values()) / len(found.retention) if found.retention else None
            yield (
                system, found.week, len(found.seeds), found.quality,
                f"{gain.mean:+.1f}" if gain else None, f"{gain.low:+.1f} to {gain.high:+.1f}" if gain else None,
                found.prompt_tokens, found.latency_ms, found.learn_seconds, found.training_tokens,
                100 * found.adapter_share, kept,
            )  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(_said(value))}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><caption>{caption}</caption><tr>{cells}</tr>{body}</table>"


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_said(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "not measured" if value is None else str(value)
