"""Render the notebooks, with their stored outputs, into a static site (`_docs/`) and `index` into README.md.

    python .site/build.py            the site
    python .site/build.py --readme   README.md only

Nothing is executed: prose, code and figures are what the notebooks hold; signatures come from the generated modules.
"""
from __future__ import annotations

import argparse
import base64
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from fastcore.docments import docments
from latex2mathml.converter import convert as to_mathml

ROOT = Path(__file__).resolve().parent.parent
NBS, PROC, SITE = ROOT / "nbs", ROOT / "_proc", ROOT / "_docs"
PARTS = {
    "0_core": "Core", "1_data": "Data", "2_model": "Model", "3_loss": "Loss", "4_metric": "Metric",
    "5_training": "Training", "6_deploy": "Use", "7_nas": "Search", "tutorials": "Tutorials", "": "",
}
sys.path.insert(0, str(ROOT))


class Page:
    "One notebook: where it stands, what it exports, and its cells."

    def __init__(self, path: Path):
        self.path = path
        self.cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in self.cells:
            cell["source"] = "".join(cell["source"])
        self.part = path.parent.name if path.parent != NBS else ""
        stem = re.sub(r"^\d+_", "", path.stem)
        folder = re.sub(r"^\d+_", "", self.part)
        self.target = f"{folder}/{stem}.md" if folder else f"{stem}.md"
        first = next(cell["source"] for cell in self.cells if cell["cell_type"] == "markdown")
        self.title = first.splitlines()[0].lstrip("# ").strip()
        found = re.search(r"^#\|\s*default_exp (\S+)", "\n".join(c["source"] for c in self.cells), re.M)
        self.module = found.group(1) if found else None


def all_pages() -> list[Page]:
    "Every notebook of the book, in reading order."
    paths = [p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts)]
    return [Page(p) for p in sorted(paths, key=lambda p: str(p.relative_to(NBS)))]


# --- prose ---------------------------------------------------------------------------------------------------------

def outside_code(text: str, change) -> str:
    "Apply `change` to the parts of a Markdown text that are neither fenced nor inline code."
    pieces = re.split(r"(^```.*?^```\s*?$|`[^`\n]+`)", text, flags=re.M | re.S)
    return "".join(piece if k % 2 else change(piece) for k, piece in enumerate(pieces))


def math(text: str) -> str:
    "Formulas as MathML, which browsers draw without a script or a network."
    text = re.sub(r"\$\$(.+?)\$\$", lambda m: to_mathml(m[1].strip(), display="block"), text, flags=re.S)
    return re.sub(r"(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])", lambda m: to_mathml(m[1]), text)


def lists(text: str) -> str:
    "Put the blank line before a list, and the four blanks before a nested one, that Python-Markdown wants."
    item, lines, out = re.compile(r"^\s*([-*]|\d+\.)\s"), text.splitlines(), []
    for line in lines:
        if item.match(line) and out and out[-1].strip() and not item.match(out[-1]) and not out[-1].startswith(" "):
            out.append("")
        out.append(re.sub(r"^( {2,3})(?=[-*]\s)", "    ", line))
    return "\n".join(out)


def links(text: str, page: Page, pages: dict[Path, Page]) -> str:
    "Links between notebooks become links between pages."
    up = "../" * page.target.count("/")

    def change(match):
        name, anchor = match[1], match[2] or ""
        target = (page.path.parent / name).resolve()
        if target not in pages:
            raise SystemExit(f"{page.path.relative_to(ROOT)}: link to {name}, which is not a notebook of the book")
        return f"]({up}{pages[target].target}{anchor})"

    return re.sub(r"\]\(([^)#\s:]+\.ipynb)(#[^)]*)?\)", change, text)


def names(text: str, page: Page, symbols: dict[str, str]) -> str:
    "A public name in backticks links to its entry in the reference."
    up = "../" * page.target.count("/")
    parts = re.split(r"(^```.*?^```\s*?$)", text, flags=re.M | re.S)

    def change(match):
        name = match[1]
        return f"[`{name}`]({up}{symbols[name]})" if name in symbols else match[0]

    pattern = r"(?<![\[`])`([A-Za-z_][\w.]*)(?:\(\))?`(?![\]`])"
    return "".join(piece if k % 2 else re.sub(pattern, change, piece) for k, piece in enumerate(parts))


def prose(text: str, page: Page, pages: dict[Path, Page], symbols: dict[str, str]) -> str:
    text = text.replace("<details>", '<details markdown="1">')
    text = outside_code(text, lambda t: lists(math(links(t, page, pages))))
    return names(text, page, symbols)


# --- code, outputs, signatures -------------------------------------------------------------------------------------

def directives(source: str) -> set[str]:
    return set(re.findall(r"^#\|\s*(\w+)", source, re.M))


def body(source: str) -> str:
    return re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip("\n")


def is_imports(source: str) -> bool:
    lines = [line for line in body(source).splitlines() if line.strip()]
    return bool(lines) and lines[0].startswith(("from ", "import "))


def fence(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def output(out: dict, cell_id: str, number: int, alt: str, images: Path, link: str) -> str:
    "One stored output as Markdown; pictures become files."
    data = out.get("data", {})
    for kind, ending in (("image/png", "png"), ("image/jpeg", "jpg")):
        if kind in data:
            images.mkdir(parents=True, exist_ok=True)
            name = f"{cell_id}_{number}.{ending}"
            (images / name).write_bytes(base64.b64decode("".join(data[kind])))
            return f"![{alt}]({link}/{name})\n"
    if "text/markdown" in data:
        return "".join(data["text/markdown"]) + "\n"
    text = "".join(data.get("text/plain", out.get("text", "")))
    return "" if not text.strip() or out.get("name") == "stderr" else fence(text, "text")


def first_sentence(text: str) -> str:
    plain = re.sub(r"[#*`\[\]>|$<]|\(.*?\)", "", text.strip().split("\n\n")[-1]).replace("\n", " ").strip()
    return re.split(r"(?<=[.:!?])\s", plain)[0].rstrip(":").replace('"', "'")[:180] or "figure"


def entry(name: str, symbol) -> str:
    "The reference entry of one class or function: what it returns, and a table of its parameters."
    signature = ""
    try:
        signature = str(inspect.signature(symbol))
    except (TypeError, ValueError):
        pass
    kind = "class" if inspect.isclass(symbol) else "function"
    parts = [f"### `{name}` {{ #{name} }}\n", f"*{kind}*\n", (inspect.getdoc(symbol) or "").strip() + "\n"]
    try:
        table = docments(symbol, full=True, returns=True)
    except Exception:
        table = {}
    rows = [(key, spec) for key, spec in table.items() if key not in ("self", "cls")]
    if signature and any(spec.docment or spec.anno is not inspect.Parameter.empty for _, spec in rows):
        parts.append("| name | type | default | meaning |\n|---|---|---|---|")
        for key, spec in rows:
            anno = spec.anno if isinstance(spec.anno, str) else getattr(spec.anno, "__name__", str(spec.anno))
            anno = "" if spec.anno is inspect.Parameter.empty else anno
            default = "" if spec.default is inspect.Parameter.empty else f"`{spec.default!r}`"
            key = "**returns**" if key == "return" else f"`{key}`"
            cells = [key, f"`{anno}`" if anno else "", default, (spec.docment or "").replace("\n", " ")]
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def public(module) -> list[tuple[str, object]]:
    return [(name, getattr(module, name)) for name in module.__all__ if not name.startswith("_")]


# --- pages ---------------------------------------------------------------------------------------------------------

def render(page: Page, pages: dict[Path, Page], symbols: dict[str, str], images: Path, link: str) -> str:
    "A notebook as Markdown."
    out, last = [], ""
    for cell in page.cells:
        source = cell["source"]
        if cell["cell_type"] == "markdown":
            out.append(prose(source, page, pages, symbols))
            last = source
        elif cell["cell_type"] == "code":
            marks = directives(source)
            if marks & {"default_exp", "hide"} or (not marks & {"export"} and is_imports(source) and not cell["outputs"]):
                pass
            elif body(source) and "hide_input" not in marks:
                out.append(fence(body(source), 'python title="exported"' if "export" in marks else "python"))
            if "hide" not in marks:
                alt = first_sentence(last)
                out += [output(o, cell["id"], n, alt, images, link) for n, o in enumerate(cell.get("outputs", []))]
    return "\n\n".join(piece for piece in out if piece) + "\n"


def reference(page: Page) -> str:
    module = importlib.import_module(f"yolo_nas_pose.{page.module}")
    up = "../"
    head = [f"# {page.module}\n", f"Chapter: [{page.title}]({up}{page.target}). " + (module.__doc__ or "").strip() + "\n"]
    return "\n".join(head + [entry(name, symbol) for name, symbol in public(module) if callable(symbol)])


def site(pages: list[Page]) -> None:
    shutil.rmtree(PROC, ignore_errors=True)
    docs = PROC / "docs"
    by_path = {page.path.resolve(): page for page in pages}
    symbols = {}
    for page in (p for p in pages if p.module):
        module = importlib.import_module(f"yolo_nas_pose.{page.module}")
        symbols |= {name: f"api/{page.module}.md#{name}" for name, symbol in public(module) if callable(symbol)}
    for page in pages:
        target = docs / page.target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(page, by_path, symbols, target.parent / "figures", "figures"), encoding="utf-8")
        if page.module:
            api = docs / "api" / f"{page.module}.md"
            api.parent.mkdir(parents=True, exist_ok=True)
            api.write_text(reference(page), encoding="utf-8")
    config = yaml.safe_load((ROOT / ".site/mkdocs.yml").read_text(encoding="utf-8"))
    config |= {"docs_dir": str(docs), "site_dir": str(SITE), "nav": navigation(pages)}
    (PROC / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(PROC / "mkdocs.yml")],
                   check=True)
    print(f"{len(pages)} notebooks -> {SITE}/index.html")


def navigation(pages: list[Page]) -> list:
    nav, parts = [{"Home": "index.md"}], {}
    for page in pages:
        if page.part or page.module:
            parts.setdefault(PARTS.get(page.part, page.part) or "Command line", []).append({page.title: page.target})
    order = ["Tutorials", *[name for name in PARTS.values() if name not in ("", "Tutorials")], "Command line"]
    nav += [{name: parts[name]} for name in order if name in parts]
    return nav + [{"Reference": [{p.module: f"api/{p.module}.md"} for p in pages if p.module]}]


def readme(pages: list[Page]) -> None:
    "README.md: the index, with links to the notebooks as they stand in the repository."
    page = next(p for p in pages if p.target == "index.md")
    images = NBS / "index_files"
    shutil.rmtree(images, ignore_errors=True)
    page_text = render(page, {p.path.resolve(): p for p in pages}, {}, images, "nbs/index_files")
    page_text = page_text.replace('<details markdown="1">', "<details>")
    for other in pages:
        page_text = page_text.replace(f"]({other.target}", f"]({other.path.relative_to(ROOT).as_posix()}")
    note = "<!-- Rendered from nbs/index.ipynb by .site/build.py --readme. Edit the notebook. -->\n\n"
    (ROOT / "README.md").write_text(note + page_text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="render README.md only")
    found = all_pages()
    readme(found) if parser.parse_args().readme else site(found)
