# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""``report.html``: one file for people, which loads nothing and runs nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from monai_cluster.apps.check_output import CheckOutput
from monai_cluster.apps.check_overview import VERDICTS, Overview
from monai_cluster.apps.check_report import Counts
from monai_cluster.integrity import CODES, Finding

__all__ = ["write_page"]

MOST_ROWS = 1000  # of the table; report.json has all
MOST_PICTURES = 240
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #1a1a1a; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; padding: .25em .8em .25em 0; }
tr + tr td { border-top: 1px solid #eee; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.reject { color: #a33c00; font-weight: 600; } .warn { color: #7a5a00; font-weight: 600; } .accept { color: #00664f; }
.sheet { display: flex; flex-wrap: wrap; gap: .6em; } figure { margin: 0; width: 6.4em; font-size: 11px; }
.sheet img { width: 6em; height: 6em; object-fit: contain; background: #000; border: 3px solid #009e73; }
.sheet .warn img { border-color: #e69f00; } .sheet .reject img { border-color: #d55e00; }
.wide { max-width: 100%; } code { font-size: 13px; } .note { color: #555; }
"""


def write_page(view: Overview, counts: Counts, output: CheckOutput, contact_sheet: bool = True) -> None:
    """Write counts, the reasons of rejections and warnings, distributions, and a contact sheet of thumbnails.

    Args:
        view: the items.
        counts: of them.
        output: the check's folder.
        contact_sheet: whether to show thumbnails; they may show faces.
    """
    # matplotlib takes a second to import; only the end of a check needs it
    from monai_cluster.apps.check_figures import draw_distributions

    figure = draw_distributions([item for item in view.items if item.is_usable])
    drawn = "<p>Nothing could be read.</p>" if figure is None else _image(figure, "distributions", "wide")
    parts = [
        "<h1>Check of a data set</h1>",
        f'<p class="note">Items are named by salted ids; <code>items.csv</code> beside this file says which paths '
        f"they stand for. It stays in the hospital; this page names no file. Salt {escape(output.salt_id)}.</p>",
        _counts(counts),
        _whole(view.findings),
        "<h2>Findings by code</h2>" + _codes(counts),
        "<h2>Rejected items and warnings</h2>" + _items(view),
        "<h2>Spacing, size and values of the usable items</h2>" + drawn,
    ]
    if contact_sheet:
        parts.append("<h2>Contact sheet (middle slices)</h2>" + _sheet(view))
    with output.write("report.html") as file:
        file.write('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Check of a data set</title>\n')
        file.write('<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; ')
        file.write(f"style-src 'unsafe-inline'\">\n<style>{STYLE}</style></head>\n<body>\n")
        file.write("\n".join(parts))
        file.write("\n</body></html>\n")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; numbers are set to the right."""
    cells = "".join(f"<th>{escape(one)}</th>" for one in head)
    lines = ["".join(_cell(one) for one in row) for row in rows]
    return f"<table><tr>{cells}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _cell(text: str) -> str:
    return f'<td class="number">{text}</td>' if text.replace(",", "").isdigit() else f"<td>{text}</td>"


def _image(png: bytes, text: str, style: str = "") -> str:
    data = base64.b64encode(png).decode()
    return f'<img class="{style}" alt="{escape(text)}" src="data:image/png;base64,{data}">'


def _counts(counts: Counts) -> str:
    names = ("accepted", "warned", "rejected")
    rows = [[name, f"{counts.items[name]:,}", f"{counts.files[name]:,}"] for name in names]
    rows.append(["skipped", "", f"{counts.files['skipped']:,}"])
    rows.append(["all", f"{sum(counts.items.values()):,}", f"{counts.files['found']:,}"])
    parts = ["<h2>Counts</h2>", _table(["", "items", "files"], rows)]
    if counts.skipped:
        parts.append("<h2>Skipped files</h2>" + _numbers("reason", counts.skipped))
    if counts.splits:
        rows = [[escape(one), f"{n['items']:,}", f"{n['patients']:,}"] for one, n in counts.splits.items()]
        parts.append("<h2>Splits of the datalist</h2>" + _table(["split", "items", "patients"], rows))
    return "".join(parts)


def _numbers(what: str, numbers: Mapping[str, int]) -> str:
    return _table([what, "files"], [[escape(name), f"{number:,}"] for name, number in numbers.items()])


def _whole(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    return "<h2>About the whole</h2>" + _table(["", "code", "rule", "found", "what to do"], map(_finding, findings))


def _finding(one: Finding) -> list[str]:
    severity = f'<span class="{one.severity}">{one.severity}</span>'
    return [severity, escape(one.code), escape(one.rule), escape(one.found), escape(one.fix)]


def _codes(counts: Counts) -> str:
    rows = [
        [f'<span class="{severity}">{severity}</span>', escape(code), escape(CODES[code]), f"{number:,}"]
        for severity in ("reject", "warn")
        for code, number in counts.codes.get(severity, {}).items()
    ]
    return _table(["", "code", "meaning", "items"], rows) if rows else "<p>None.</p>"


def _items(view: Overview) -> str:
    """Rejected items first, then warned ones, as many as a page can show."""
    rows: dict[str, list[list[str]]] = {"reject": [], "warn": []}
    total = 0
    for one in view.judged():
        for finding in one.findings:
            total += 1
            if len(rows[finding.severity]) < MOST_ROWS:
                rows[finding.severity].append([f"<code>{escape(one.item.id)}</code>", *_finding(finding)])
    shown = (rows["reject"] + rows["warn"])[:MOST_ROWS]
    if not shown:
        return "<p>None.</p>"
    rest = "" if total <= MOST_ROWS else f"<p>{total - MOST_ROWS:,} more are in report.json.</p>"
    return _table(["item", "", "code", "rule", "found", "what to do"], shown) + rest


def _sheet(view: Overview) -> str:
    """Rejected, then warned, then an even sample of accepted items."""
    by_verdict: list[list[int]] = [[], [], []]
    for place, item in enumerate(view.items):
        if item.sides is not None:
            by_verdict[item.severity].append(place)
    chosen: list[int] = []
    for places, most in zip(
        reversed(by_verdict), (MOST_PICTURES // 3, 2 * MOST_PICTURES // 3, MOST_PICTURES), strict=True
    ):
        room = most - len(chosen)
        step = max(1, -(-len(places) // room)) if room else 1
        chosen += places[::step][:room]
    figures = []
    for place in chosen:
        png, item = view.index.thumbnail(place), view.items[place]
        if png is not None:
            verdict = VERDICTS[item.severity]
            picture = _image(png, f"middle slice of {item.id}")
            figures.append(f'<figure class="{verdict}">{picture}<figcaption>{escape(item.id)}</figcaption></figure>')
    shown = (
        f"<p>{len(figures):,} of {len(view.items):,} items: rejected (orange), warned (yellow), accepted (green).</p>"
    )
    return f'{shown}<div class="sheet">{"".join(figures)}</div>'
