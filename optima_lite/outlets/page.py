"""The viewer as one HTML file: it holds its data, its script and its style, and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import html
from importlib.resources import files
from string import Template

from .blocks import pack, to_text
from .contents import Contents

MARK = '<meta name="generator" content="optima-lite view">'  # tells a page of ours from other files
_PARTS = ("base", "store", "place", "charts", "overview", "views", "main")  # in this order they are one script


def page(found: Contents) -> str:
    """The whole file. The texts in it are packed, so that nothing of them can be markup; the page's policy lets nothing
    run but its own script, and nothing be loaded."""
    blocks = [_block("index", pack(to_text(found.index)))]
    blocks += [_block(f"block-{name}", packed) for name, packed in found.blocks.items()]
    return _filled(" and ".join(run["name"] for run in found.index["runs"]), "\n".join(blocks), live=False)


def live_page(title: str) -> str:
    """The same page without data, which it asks its own server for."""
    return _filled(title, "", live=True)


def _block(name: str, packed: str) -> str:
    return f'<script type="text/plain" id="{name}">{packed}</script>'


def _filled(title: str, blocks: str, *, live: bool) -> str:
    here = files(__package__) / "viewer"
    script = "".join((here / f"{name}.js").read_text("utf-8") for name in _PARTS)
    style = (here / "style.css").read_text("utf-8")
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "base-uri": "'none'",
        "form-action": "'none'",
        **({"connect-src": "'self'"} if live else {}),
    }
    return Template((here / "page.html").read_text("utf-8")).substitute(
        live=" data-live" if live else "",
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        title=html.escape(title),
        style=style,
        blocks=blocks,
        script=script,
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
