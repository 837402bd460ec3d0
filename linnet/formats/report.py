"""A report: what a stage did and measured, as JSON and as one HTML page that needs nothing else.

report.json   {"verb", "version", "results", "settings", "machine", "plots", "texts"}
report.html   the same for people; plots are inline SVG, no script, no network
"""

from __future__ import annotations

import html
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from linnet.errors import MissingExtraError
from linnet.formats.atomic import atomic_file


@dataclass(frozen=True)
class Plot:
    """Lines over one axis. ``lines`` maps a label to points [x, y]; ``mark`` draws a dashed line at x."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[Sequence[float]]]
    mark: float | None = None


@dataclass(frozen=True)
class Text:
    """A piece of text worth showing, such as a sample of a model."""

    title: str
    body: str


@dataclass(frozen=True)
class Report:
    """Everything a stage has to say. ``results`` and ``settings`` are plain JSON values."""

    verb: str
    title: str
    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    plots: Sequence[Plot] = ()
    texts: Sequence[Text] = ()
    machine: Mapping[str, Any] = field(default_factory=lambda: describe_machine())


def describe_machine() -> dict[str, Any]:
    """System, processor, processors this process may use, and Python."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "system": platform.platform(terse=True),
        "processor": _processor_name(),
        "processors": len(affinity(0)) if affinity else os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_report(report: Report, folder: Path) -> None:
    """Writes report.json and report.html into ``folder``, each atomically.

    Raises TargetError, and MissingExtraError when matplotlib is absent (after report.json is written).
    """
    document = {"verb": report.verb, "version": linnet_version(), **asdict(report)}
    with atomic_file(folder / "report.json") as file:
        file.write((json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    page = _page(report)
    with atomic_file(folder / "report.html") as file:
        file.write(page.encode())


def linnet_version() -> str:
    """The installed version, or a word that says there is none."""
    try:
        return metadata.version("linnet")
    except metadata.PackageNotFoundError:
        return "source tree"


_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
.version { color: #667; margin: 0 0 1.5rem }
.results { display: flex; flex-wrap: wrap; gap: .75rem }
.results div { border: 1px solid #d8dee6; border-radius: 8px; padding: .5rem .9rem }
.results b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums }
.results span { color: #667; font-size: .85rem }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem }
.plots svg { width: 100%; height: auto }
table { border-collapse: collapse }
td { padding: .15rem 1.5rem .15rem 0; vertical-align: top; overflow-wrap: anywhere }
td:first-child { color: #667; white-space: nowrap }
pre { white-space: pre-wrap; background: #f5f7fa; border-radius: 8px }
pre { padding: .7rem .9rem; margin: .3rem 0 1rem }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem }
"""


def _page(report: Report) -> str:
    cards = "".join(
        f"<div><b>{_value(v)}</b><span>{_label(k)}</span></div>" for k, v in report.results.items()
    )
    plots = "".join(_svg(plot) for plot in report.plots)
    texts = "".join(f"<h3>{html.escape(t.title)}</h3><pre>{html.escape(t.body)}</pre>" for t in report.texts)
    sections = [
        f"<h1>{html.escape(report.title)}</h1>",
        f'<p class="version">linnet {html.escape(report.verb)}, version {html.escape(linnet_version())}</p>',
        f'<div class="results">{cards}</div>',
        f'<h2>Curves</h2><div class="plots">{plots}</div>' if plots else "",
        f"<h2>Samples</h2>{texts}" if texts else "",
        '<div class="columns">',
        f"<div><h2>Settings</h2>{_table(report.settings)}</div>",
        f"<div><h2>Machine</h2>{_table(report.machine)}</div></div>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(report.title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_label(key)}</td><td>{_value(value)}</td></tr>" for key, value in values.items()
    )
    return f"<table>{rows}</table>"


def _label(key: str) -> str:
    return html.escape(key.replace("_", " "))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return "<br>".join(f"{_label(str(k))}: {_value(v)}" for k, v in value.items())
    return html.escape(str(value))


def _svg(plot: Plot) -> str:
    """The plot as an ``<svg>`` element. matplotlib's own drawing surface, so no window system is touched."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "train") from None
    # A fixed salt gives the same ids, and so the same bytes, for the same report.
    with rc_context({"svg.hashsalt": plot.title, "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(6, 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for label, points in plot.lines.items():
            axes.plot([p[0] for p in points], [p[1] for p in points], label=label, linewidth=1.4,
                      marker="o" if len(points) <= 30 else None, markersize=3)  # fmt: skip
        if plot.mark is not None:
            axes.axvline(plot.mark, linestyle="--", linewidth=1, color="#889")
        axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(plot.lines) > 1:
            axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
