"""A page of HTML that needs no other file: a stylesheet, tables and embedded figures."""

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from matplotlib.figure import Figure

_WIDE = 7.0  # inches: wider figures scroll on a small screen
_STYLE = """
:root{color-scheme:light dark;
--ink:#1d2430;--soft:#5a6474;--paper:#fff;--line:#dfe3e8;--card:#f6f7f9}
@media (prefers-color-scheme:dark){
:root{--ink:#e7eaee;--soft:#a3adba;--paper:#15181d;--line:#343b45;--card:#1e232a}}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);
background:var(--paper);max-width:54rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0 1rem}
h2{font-size:1.15rem;margin:2.5rem 0 .6rem}
.summary{background:var(--card);border-left:4px solid #0072b2;border-radius:4px;
padding:.9rem 1.1rem;font-size:1.05rem}
.summary p{margin:.3rem 0}
p,figcaption{color:var(--ink)}
figcaption,.note{color:var(--soft);font-size:.92rem;margin:.5rem 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem;min-width:100%}
th,td{padding:.4rem .8rem .4rem 0;text-align:right;border-bottom:1px solid var(--line);
vertical-align:top;white-space:nowrap}
th{color:var(--soft);font-weight:600}
th:first-child,td:first-child{text-align:left}
a{color:inherit}
.text td,.text th{text-align:left}
.text td:last-child{white-space:normal;overflow-wrap:anywhere}
small{color:var(--soft)}
figure{margin:0}
img{display:block;max-width:100%;height:auto;background:#fff;border-radius:6px}
img.wide{min-width:40rem}
code{font-size:.88rem;overflow-wrap:anywhere}
pre{background:var(--card);border-radius:4px;padding:.8rem;white-space:pre-wrap}
summary{cursor:pointer}
@media print{body{max-width:none}figure,table{break-inside:avoid}}
"""


class Link(NamedTuple):
    """A cell of a table that leads to a file or a folder beside the page."""

    path: str


def text(content: str) -> str:
    """Escapes what comes from a run, and keeps intervals on one line."""
    return html.escape(content).replace(" ± ", "\u00a0±\u00a0")


def paragraph(content: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{text(content)}</p>' if kind else f"<p>{text(content)}</p>"


def table(rows: Sequence[Sequence[str | Link]], note: str, *, kind: str = "") -> str:
    """A table, the first row of which is its head, below a sentence that explains it.

    Of a cell of several lines, all but the first are small.
    """

    def cell(content: str | Link) -> str:
        if isinstance(content, Link):
            return f'<a href="{quote(content.path)}">{text(content.path)}</a>'
        first, *others = map(text, content.split("\n"))
        return first + "".join(f"<br><small>{line}</small>" for line in others)

    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{cell(of)}</th>" for of in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell(of)}</td>" for of in row) + "</tr>" for row in body]
    joined = "\n".join(lines)
    return (
        f'{paragraph(note, "note")}\n<div class="scroll"><table class="{kind}">\n{joined}\n'
        "</table></div>"
    )


def figure(title: str, drawn: Figure, caption: str, *, pixels: bool = False) -> str:
    """A figure under its title, embedded as SVG or as PNG, with a sentence that explains it."""
    kind = "wide" if drawn.get_size_inches()[0] > _WIDE else ""
    return (
        f'{heading(title)}\n<figure><div class="scroll"><img class="{kind}" alt="{text(title)}" '
        f'src="{embedded(drawn, pixels=pixels)}"></div>\n'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def embedded(drawn: Figure, *, pixels: bool) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    if pixels:
        drawn.savefig(buffer, format="png", dpi=130)
        kind = "png"
    else:
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
        kind = "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def heading(content: str) -> str:
    """A heading of plain text."""
    return f"<h2>{text(content)}</h2>"


def details(title: str, content: str) -> str:
    """What opens at a click."""
    return f"<details><summary>{text(title)}</summary>\n{content}\n</details>"


def document(title: str, sentences: Sequence[str], parts: Sequence[str]) -> str:
    """A page: title, a summary of plain sentences, and parts that are HTML already."""
    summary = "\n".join(paragraph(of) for of in sentences)
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n<h1>{text(title)}</h1>\n"
        f'<div class="summary">\n{summary}\n</div>\n{body}\n</html>\n'
    )
