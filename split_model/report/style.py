"""Colours of the report, once for the page's CSS and once for the plots, each for light and for dark."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Theme:
    """One scheme of colours, each as ``#rrggbb``; chosen to differ in lightness as well as in hue."""

    name: str
    page: str
    card: str
    line: str
    text: str
    muted: str
    adaptive: str
    local: str
    fixed: str
    other: str
    bad: str
    link: str

    def of_outcome(self, outcome: str) -> str:
        """Return the colour of a frame's outcome."""
        return {"offloaded": self.adaptive, "local": self.local, "fallback": self.bad}.get(outcome, self.bad)


LIGHT = Theme(
    name="light",
    page="#f5f6f8",
    card="#ffffff",
    line="#dfe3e8",
    text="#1c2430",
    muted="#5d6876",
    adaptive="#1f5fbf",
    local="#c8640a",
    fixed="#1b8a5a",
    other="#a9b2bd",
    bad="#c0262d",
    link="#8a97a8",
)
DARK = Theme(
    name="dark",
    page="#12161c",
    card="#1b212a",
    line="#323b47",
    text="#e6eaf0",
    muted="#9aa6b4",
    adaptive="#6aa6ff",
    local="#f0a04b",
    fixed="#4cc38a",
    other="#5f6a78",
    bad="#ff6b6b",
    link="#7b8898",
)


COLOURS = tuple(field.name for field in fields(Theme) if field.name != "name")


def css_variables(theme: Theme) -> str:
    """Return the theme as declarations of CSS custom properties."""
    return "".join(f"--{colour}:{getattr(theme, colour)};" for colour in COLOURS)


def recoloured(svg: str, drawn: Theme, wanted: Theme) -> str:
    """Return an SVG drawn in one theme in the colours of another; drawing it again would cost seconds."""
    table = {getattr(drawn, colour): getattr(wanted, colour) for colour in COLOURS}
    return re.sub("|".join(table), lambda found: str(table[found.group()]), svg)


CSS = (
    f":root{{color-scheme:light dark;{css_variables(LIGHT)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{css_variables(DARK)}}}}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 48px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:40px 0 12px}
h3{font-size:.85rem;font-weight:600;margin:0;color:var(--muted)}
.muted,figcaption,.small,footer{color:var(--muted)}
header p{margin:0 0 20px}
.verdict{font-size:1.15rem;margin:20px 0 16px;max-width:52em}
.cards{display:grid;gap:14px;margin:14px 0}
.three{grid-template-columns:repeat(auto-fit,minmax(290px,1fr))}
.four{grid-template-columns:repeat(auto-fit,minmax(190px,1fr))}
.two{grid-template-columns:repeat(auto-fit,minmax(320px,1fr))}
.card,figure,.scroll,.photo,.callout{background:var(--card);border:1px solid var(--line);border-radius:10px}
.card{padding:14px 16px}
.big{font-size:1.7rem;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums}
.small{font-size:.85rem}
.bar{display:grid;grid-template-columns:92px 1fr 76px;gap:8px;align-items:center;font-size:.85rem;margin-top:5px}
.barname{color:var(--muted);white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.track{background:var(--page);border-radius:4px;height:10px;display:block}
.fill{display:block;height:10px;border-radius:4px}
.barvalue{text-align:right;font-variant-numeric:tabular-nums}
.callout{border-left:5px solid var(--local);padding:12px 18px;margin-top:24px}
.callout h2{margin:0 0 4px;font-size:1rem}
.callout ul{margin:0;padding-left:20px}
.callout p{margin:0}
figure{margin:0;padding:14px 14px 10px}
.plot{display:block;width:100%;height:auto}
@media(max-width:640px){figure{overflow-x:auto}.plot{min-width:680px}}
figcaption{font-size:.85rem;margin-top:6px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:7px 9px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
tbody tr:last-child td{border-bottom:0}
th{color:var(--muted);font-weight:600}
th:first-child,td:first-child,.why{text-align:left}
th:first-child,td:first-child{padding-left:14px}
th:last-child,td:last-child{padding-right:14px}
td.why{white-space:normal}
.ours td{font-weight:650}
details{margin:8px 0}
summary{cursor:pointer;color:var(--muted);font-size:.88rem}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(208px,1fr));gap:14px}
.photo{overflow:hidden;font-size:.85rem}
.photo img,.nopicture{display:block;width:100%;aspect-ratio:1;height:auto;object-fit:cover}
.photo .drawn img{aspect-ratio:auto;object-fit:contain}
.photo .drawn figure{border:0;margin:0;padding:0}
.nopicture{display:grid;place-items:center;background:var(--page);color:var(--muted)}
.phototext{padding:8px 12px 10px}
.filename{color:var(--muted);font-size:.78rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.truth{margin-bottom:4px;line-height:1.35}
.pass{border-top:1px solid var(--line);padding:5px 0}
.answer{font-weight:600;line-height:1.3;display:flex;justify-content:space-between;gap:6px}
.answer small{font-weight:400;white-space:nowrap;color:var(--muted)}
.outcome{color:var(--muted);font-size:.78rem}
.release{margin:14px 0 4px}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(96px,150px));gap:6px;margin:0}
.sheet img{display:block;width:100%;height:auto;border-radius:4px}
.right{color:var(--fixed)}
.wrong{color:var(--bad)}
.tag{font-size:.74rem;font-weight:600}
.tag.offloaded{color:var(--adaptive)}
.tag.local{color:var(--local)}
.tag.fallback,.tag.failed{color:var(--bad)}
.tag.best{color:var(--fixed);border:1px solid var(--fixed);border-radius:8px;padding:0 6px;margin-left:6px}
footer{margin-top:40px;border-top:1px solid var(--line);padding-top:12px;font-size:.85rem}
footer p{margin:2px 0}
@media print{.photo,.card,figure{break-inside:avoid}}
"""
)
