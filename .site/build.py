"""Render the notebooks, with their stored outputs, into a static site (`_docs/`) and `index` into README.md.

    python .site/build.py            the site
    python .site/build.py --readme   README.md only

Nothing is executed and the library is not imported: prose, code, figures and signatures are what the notebooks hold.
"""
from __future__ import annotations

import argparse
import base64
import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from book import PARTS, Cell, Page, plain_words, read_book, split_fences
from prose import Links, escape, prose

SITE = Path(__file__).resolve().parent
ROOT = SITE.parent
PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}


def settings() -> configparser.SectionProxy:
    config = configparser.ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


# --- code and outputs ----------------------------------------------------------------------------------------------

def fence(text: str, language: str) -> str:
    "Code in a fence longer than any in it."
    marks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def terminal_text(text: str) -> str:
    "Printed text as a terminal shows it: no colour codes, and of a progress bar its last state."
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")).strip("\n")


def describe(cell: Cell, before: str) -> str:
    "What a figure shows: its caption, or the sentences before it that fit into 250 characters."
    given = cell.options.get("fig-alt") or cell.options.get("fig-cap")
    if given:
        return given.strip("\"'")
    outside = "".join(text for code, text in split_fences(before) if not code).strip()
    sentences = re.split(r"(?<=[.!?:])\s+(?=[A-Z`*])", plain_words(outside.split("\n\n")[-1]))
    text = sentences[0]
    for sentence in sentences[1:]:
        if len(text) + len(sentence) > 250:
            break
        text += " " + sentence
    return text[:300].rstrip(":").replace("[", "(").replace("]", ")") or "figure"


def output(stored: dict, alt: str, keep: Callable[[bytes, str], str], site: bool) -> str:
    "One stored output as Markdown. `keep` stores a picture and says where it is."
    data = {kind: "".join(value) if isinstance(value, list) else value for kind, value in stored.get("data", {}).items()}
    for kind, ending in PICTURES.items():
        if kind in data:
            raw = data[kind].encode() if ending == "svg" else base64.b64decode(data[kind])
            return f"![{alt}]({keep(raw, ending)})" + ("{ loading=lazy }" if site else "")
    if "text/markdown" in data:
        return data["text/markdown"]
    if site and "text/html" in data:
        inner = re.sub(r"<(style|script)\b.*?</\1>", "", data["text/html"], flags=re.DOTALL)
        inner = re.sub(r"\n\s*\n", "\n", inner)  # a blank line would end the block
        return f'<div class="rich-output">{inner}</div>'
    text = "".join(data.get("text/plain", "")) or "".join(stored.get("text", ""))
    text = terminal_text(text)
    if not text or stored.get("name") == "stderr":
        return ""
    return fence(text, " { .text .no-copy .output }" if site else "text")


def is_imports(cell: Cell) -> bool:
    lines = [line for line in cell.source.splitlines() if re.match(r"[^\s#)]", line)]
    return bool(lines) and all(line.startswith(("from ", "import ", "if TYPE_CHECKING")) for line in lines)


def code(cell: Cell, page: Page) -> str:
    "The source of a cell; what becomes part of the library carries the name of its module, imports are folded."
    if not cell.exported:
        return fence(cell.source, "python")
    place = f"yolo_nas_pose/{page.module.replace('.', '/')}.py"
    if is_imports(cell):
        head = f'<details class="imports" markdown="1"><summary>Imports of {place}</summary>'
        return f"{head}\n\n{fence(cell.source, 'python')}\n\n</details>"
    return fence(cell.source, f' {{ .python .exported title="{place}" }}')


# --- pages ---------------------------------------------------------------------------------------------------------

def chapter(page: Page, links: Links, resolve: Callable[[str], str], folder: Path) -> str:
    "A notebook as a page of the site. Its figures go into `folder`/figures."
    out, before = [], ""

    def keep(raw: bytes, ending: str) -> str:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        name = f"{page.slug}_{len(list((folder / 'figures').glob(page.slug + '_*'))) + 1}.{ending}"
        (folder / "figures" / name).write_bytes(raw)
        return f"figures/{name}"

    for cell in (cell for cell in page.cells if not cell.hidden):
        if cell.kind == "markdown":
            out.append(prose(cell.source, page, cell.anchors, links, resolve))
            if len(out) == 1 and page.target != "index.md":
                out.append(whereabouts(page, links))
            before = cell.source
            continue
        if cell.shows_code:
            out.append(code(cell, page))
        if cell.shows_outputs:
            out += [output(stored, describe(cell, before), keep, site=True) for stored in cell.outputs]
    return "\n\n".join(piece for piece in out if piece) + "\n"


def whereabouts(page: Page, links: Links) -> str:
    "The line below the title: reference and notebook."
    parts = [f"reference [`{page.module}`]({page.up}api/{page.module}.md)"] if page.module else []
    parts.append(f"notebook [{escape(page.name)}]({links.repository}/blob/main/nbs/{page.name})")
    return " · ".join(parts) + "\n{ .meta }"


def book_map(pages: list[Page]) -> str:
    "All notebooks, floor by floor, each with its one line."
    floors = {}
    for page in (page for page in pages if page.target != "index.md"):
        name, floor, about = PARTS.get(page.part, (page.part.title(), 0, ""))
        floors.setdefault(floor, {}).setdefault((name, about), []).append(page)
    house = ['<div class="house" markdown="1">']
    for floor in sorted((floor for floor in floors if floor), reverse=True):
        house.append('<div class="floor" markdown="1">')
        for (name, _), rooms in floors[floor].items():
            doors = " ".join(f"[{escape(page.title)}]({page.target})" for page in rooms)
            house.append(f'<div class="room" markdown="1">\n**{name}**\n\n{doors}\n</div>')
        house.append("</div>")
    out = ["# Map of the book", "> Every notebook, and what it is about.",
           ("The book is a house. Each part stands on the floors below it and knows nothing of those above; parts on one "
            "floor do not know each other. Read from the ground up, or enter where your question lives."), "\n".join([*house, "</div>"])]
    for floor in sorted(floors):
        for (name, about), rooms in floors[floor].items():
            out.append(f"## {name}\n\n{about}")
            lines = ['<div class="chapters" markdown="1">\n', "| chapter | what it is about |", "|---|---|"]
            lines += [f"| [{page.number} {escape(page.title)}]({page.target})".replace("[ ", "[") + f" | {escape(page.summary)} |"
                      for page in rooms]
            out.append("\n".join([*lines, "\n</div>"]))
    return "\n\n".join(out) + "\n"


def navigation(pages: list[Page]) -> list:
    "The table of contents at the side, in reading order."
    parts: dict[str, list] = {}
    for page in (page for page in pages if page.target != "index.md"):
        parts.setdefault(page.part, []).append({page.title: page.target})
    chapters = []
    for part, entries in parts.items():
        name = PARTS.get(part, (part.title(),))[0]
        chapters += entries if part == "" else [{name: entries}]
    modules: dict[str, list] = {}
    for page in (page for page in pages if page.module):
        modules.setdefault(page.part, []).append({page.module: f"api/{page.module}.md"})
    reference = [{PARTS.get(part, (part,))[0]: entries} for part, entries in modules.items()]
    return [{"Home": "index.md"}, {"Map of the book": "map.md"}, *chapters, {"Reference": ["api/index.md", *reference]}]


# --- the two products ----------------------------------------------------------------------------------------------

def write_pages(pages: list[Page], nbs: Path, work: Path, draft: bool) -> None:
    "Everything as Markdown. Exits with a list where links lead nowhere, unless it is a draft."
    from reference import Reference, api_index, api_page
    links = Links(pages, ROOT, nbs, settings()["git_url"])
    reference = Reference(pages, public_names())
    texts = {"map.md": book_map(pages), "api/index.md": api_index(reference)}
    for page in pages:
        target = work / page.target
        texts[page.target] = chapter(page, links, reference.resolver(page, page.up), target.parent)
        if page.module:
            texts[f"api/{page.module}.md"] = api_page(page, reference)
    for place, text in texts.items():
        (work / place).parent.mkdir(parents=True, exist_ok=True)
        (work / place).write_text(text, encoding="utf-8")
    for place, file in links.pictures.items():
        (work / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, work / place)
    if links.problems:
        print("\n".join(links.problems), file=sys.stderr)
        if not draft:
            sys.exit(f"{len(links.problems)} problems: mend the notebooks, or look at a draft with --draft")


def public_names() -> dict[str, str]:
    "Names that the package itself offers -> the modules that hold them. Importing the package is free."
    sys.path.insert(0, str(ROOT))
    import yolo_nas_pose
    return dict(yolo_nas_pose._HOME)


def build(nbs: Path, work: Path, out: Path, draft: bool) -> None:
    "The site."
    import yaml
    pages = read_book(nbs)
    if not any(page.target == "index.md" for page in pages):
        sys.exit("there is no index.ipynb, which is the first page of the site")
    shutil.rmtree(work, ignore_errors=True)
    write_pages(pages, nbs, work / "docs", draft)
    config = yaml.safe_load((SITE / "mkdocs.yml").read_text(encoding="utf-8"))
    home = settings()
    config |= {"docs_dir": str(work / "docs"), "site_dir": str(out.resolve()), "nav": navigation(pages),
               "site_url": home["doc_host"] + home["doc_baseurl"] + "/", "repo_url": home["git_url"],
               "repo_name": home["repo"], "edit_uri": ""}
    config["theme"]["custom_dir"] = str(SITE / "theme")
    (work / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(work / "mkdocs.yml")]
    done = subprocess.run(command, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    if done.returncode:
        sys.exit("mkdocs found faults in the pages (above); their Markdown is in " + str(work / "docs"))
    print(f"{len(pages)} notebooks -> {out}/index.html")


def readme_text(page: Page, pictures: Path) -> str:
    "The index as plain Markdown for GitHub, with links as seen from the top of the repository; pictures are stored."
    nbs, out, before, stored = page.path.parent, [], "", {}

    def keep(raw: bytes, ending: str) -> str:
        name = f"readme_{len(stored) + 1}.{ending}"
        stored[name] = raw
        return os.path.relpath(pictures / name, nbs.parent).replace(os.sep, "/")

    def relink(match: re.Match) -> str:
        if re.match(r"\w+:|#|/", match[2]):
            return match[0]
        return match[1] + os.path.normpath(f"{nbs.name}/{match[2]}").replace(os.sep, "/") + match[3]

    for cell in (cell for cell in page.cells if not cell.hidden):
        if cell.kind == "markdown":
            pieces = (piece if code else re.sub(r'(\]\(|(?:src|href)=")([^)"\s]+)([)"])', relink, piece)
                      for code, piece in split_fences(cell.source))
            out.append("".join(pieces).strip())
            before = cell.source
            continue
        if cell.shows_code:
            out.append(fence(cell.source, "python"))
        if cell.shows_outputs:
            out += [output(item, describe(cell, before), keep, site=False) for item in cell.outputs]
    for old in pictures.glob("readme_*"):
        if old.name not in stored:
            old.unlink()
    for name, raw in stored.items():
        pictures.mkdir(parents=True, exist_ok=True)
        if not (pictures / name).is_file() or (pictures / name).read_bytes() != raw:
            (pictures / name).write_bytes(raw)
    return "\n\n".join(piece for piece in out if piece) + "\n"


def readme(nbs: Path, target: Path) -> None:
    "Writes README.md from index.ipynb."
    if not (nbs / "index.ipynb").is_file():
        sys.exit(f"there is no {nbs / 'index.ipynb'} to render")
    note = "<!-- Rendered from nbs/index.ipynb by .site/build.py --readme. Edit the notebook. -->\n\n"
    target.write_text(note + readme_text(Page(nbs / "index.ipynb", nbs), nbs / "images"), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="render README.md, which stands beside the notebooks' folder")
    parser.add_argument("--draft", action="store_true", help="only report links that lead nowhere")
    parser.add_argument("--nbs", type=Path, default=ROOT / "nbs", help="folder of the notebooks")
    parser.add_argument("--out", type=Path, default=ROOT / "_docs", help="folder of the site")
    parser.add_argument("--work", type=Path, default=ROOT / "_proc", help="folder of the Markdown between the two")
    args = parser.parse_args()
    nbs = args.nbs.resolve()
    if args.readme:
        readme(nbs, nbs.parent / "README.md")
    else:
        build(nbs, args.work.resolve(), args.out.resolve(), args.draft)


if __name__ == "__main__":
    main()
