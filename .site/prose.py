"Notebook Markdown as Markdown of the site: formulas drawn, lists as Python-Markdown wants them, links checked."
from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from book import Page, slug, split_fences


def entities(text: str) -> str:
    "Text in which no character means anything to Markdown."
    return re.sub(r"[\\*_`\[\]|${}]", lambda m: f"&#{ord(m[0])};", text)


def escape(text: str) -> str:
    "Plain text, safe within Markdown and HTML."
    return entities(html.escape(text, quote=False))


def formula(latex: str, display: bool) -> str:
    "A formula as MathML, which browsers draw without a script or a network. Raises ValueError for one that cannot be."
    from latex2mathml.converter import convert
    try:
        drawn = convert(latex.strip(), display="block" if display else "inline")
    except Exception as error:
        raise ValueError(f"formula {latex.strip()!r} cannot be drawn ({type(error).__name__})") from error
    drawn = drawn.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
    drawn = re.sub(r"<mo>(?=(&#x0007C;|&#x0002F;|/|\|)</mo>)", '<mo lspace="0" rspace="0" stretchy="false">', drawn)
    drawn = re.sub(r"(<mi>(?:log|ln|sin|cos|arctan)</mi>)(?=<m(?!o))", r'\1<mspace width="0.17em"/>', drawn)
    if unknown := re.search(r"\\[a-zA-Z]+", drawn):
        raise ValueError(f"formula {latex.strip()!r}: {unknown[0]} cannot be drawn")
    return f'<span class="formula{" display" if display else ""}">{entities(drawn)}</span>'


def maths(text: str) -> str:
    "Formulas between one or two dollars, drawn."
    text = re.sub(r"\$\$(.+?)\$\$", lambda m: formula(m[1], True), text, flags=re.DOTALL)
    inline = r"(?<![\\$\w])\$(?!\s)((?:[^$\n]|\n(?!\s*\n))+?)(?<!\s)\$(?![\w$])"
    return re.sub(inline, lambda m: formula(m[1], False), text)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    "Changes what is not inline code."
    pieces = re.split(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", text, flags=re.DOTALL)
    out = [change(pieces[0])]
    for mark, code, after in zip(pieces[1::3], pieces[2::3], pieces[3::3]):
        out += [mark + code + mark, change(after)]
    return "".join(out)


def lists(text: str) -> str:
    "Puts the blank line before a list, and the four blanks per level within it, that Python-Markdown wants."
    item = re.compile(r"^( *)([-*+]|\d+[.)]) +(?=\S)")
    out, levels, fence = [], [], False  # levels: columns at which the contents of the open items begin
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        within = bool(levels)
        found = None if fence or (indent > 3 and not within) else item.match(line)
        if not fence and line.strip() and (found or (out and not out[-1].strip())):  # other lines just go on
            while levels and indent < levels[-1]:
                levels.pop()
        if line.lstrip().startswith(("```", "~~~")):
            fence = not fence
        if found and not within and out and out[-1].strip():
            out.append("")
        inner = line[min(indent, levels[-1]):] if levels else line
        out.append("    " * len(levels) + (inner.lstrip() if found else inner) if line.strip() else "")
        if found:
            levels.append(found.end())
    return "\n".join(out)


class Links:
    "Follows links between notebooks, to files of the repository and to pictures; collects those that lead nowhere."

    def __init__(self, pages: list[Page], root: Path, nbs: Path, repository: str):
        self.pages = {page.path: page for page in pages}
        self.root, self.nbs, self.repository = root, nbs, repository
        self.problems: list[str] = []
        self.pictures: dict[str, Path] = {}  # place on the site -> file

    def follow(self, text: str, page: Page) -> str:
        "The text with its links as they are on the site."
        def change(match):
            picture, label, target = match[1], match[2], match[3]
            if re.match(r"\w+:", target):
                if picture and not target.startswith("data:"):
                    self.problems.append(f"{page.name}: picture {target} comes from the network; keep it beside the notebook")
                return match[0]
            new = self._picture(target, page) if picture else self._page(target, page)
            return f"{picture}[{label}]({new})" if new else label
        return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", change, text)

    def _picture(self, target: str, page: Page) -> str:
        file = page.path.parent / unquote(target)
        if not file.is_file():
            self.problems.append(f"{page.name}: there is no picture {target}")
            return ""
        place = f"pictures/{page.slug}_{file.name}"
        self.pictures[place] = file
        return page.up + place

    def _page(self, target: str, page: Page) -> str:
        name, _, anchor = target.partition("#")
        file = Path(os.path.normpath(page.path.parent / unquote(name))) if name else page.path
        other = self.pages.get(file)
        if other:
            if anchor and slug(anchor) not in other.headings:
                self.problems.append(f"{page.name}: {other.name} has no heading #{anchor}")
                return ""
            place = page.up + other.target if name else ""
            return place + (f"#{slug(anchor)}" if anchor else "")
        beside = file.relative_to(self.nbs.parent).as_posix() if file.is_relative_to(self.nbs.parent) else ""
        if beside and file.suffix != ".ipynb" and (self.root / beside).exists():
            kind = "tree" if (self.root / beside).is_dir() else "blob"
            return f"{self.repository}/{kind}/main/{beside}"
        self.problems.append(f"{page.name}: link to {target}, which does not exist")
        return ""


def name_links(text: str, resolve: Callable[[str], str]) -> str:
    "The first mention of each public name in backticks links to its entry in the reference."
    seen = set()

    def change(match):
        name = match[1]
        if name in seen or not (target := resolve(name)):
            return match[0]
        seen.add(name)
        return f"[`{name}`]({target})"

    pieces = re.split(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)\s]*\)|^#.*$)", text, flags=re.MULTILINE)
    name = r"(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)"
    return "".join(piece if k % 2 else re.sub(name, change, piece) for k, piece in enumerate(pieces))


def prose(text: str, page: Page, anchors: list[str], links: Links, resolve: Callable[[str], str]) -> str:
    "One Markdown cell, for the site."
    left = iter(anchors)
    out = []
    for code, piece in split_fences(lists(text.replace("<details>", '<details markdown="1">'))):
        if not code:
            piece = re.sub(r"^(#{1,6} .+?)[ \t]*$", lambda m: f"{m[1]} {{ #{next(left)} }}", piece, flags=re.MULTILINE)
            piece = links.follow(piece, page)
            try:
                piece = outside_code(piece, maths)
            except ValueError as error:
                links.problems.append(f"{page.name}: {error}")
            piece = name_links(piece, resolve)
        out.append(piece)
    return "".join(out)
