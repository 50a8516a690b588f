"The notebooks as pages: where each stands, what it is called, which headings it has, and what its cells hold."
from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

PARTS = {  # folder -> name, floor of the house, what lives there
    "tutorials": ("Tutorials", 0, "From a first picture to a model of your own. They run without the rest of the book."),
    "0_core": ("Core", 1, "The values that travel, and the geometry and pictures that everything else uses."),
    "1_data": ("Data", 2, "From label files to batches."),
    "2_model": ("Model", 2, "The network, from one block to the poses of a photograph."),
    "3_loss": ("Loss", 2, "Who answers for whom, and how wrong is it?"),
    "4_metric": ("Metric", 2, "How good is a set of answers?"),
    "5_training": ("Training", 3, "One recipe, one loop."),
    "6_deploy": ("Use", 4, "Predict, quantise, export, run, time."),
    "7_nas": ("Search", 5, "Looking for better networks."),
    "": ("Command line", 6, "The same from a shell."),
}
FIRST = ["quickstart", "finetune", "own_skeleton", "animalpose", "handovers", "quantize", "deploy", "other_engines", "benchmarking"]  # tutorials to begin with; the others follow by name
HIDING = {"hide", "default_exp"}  # directives of cells that readers do not see


def plain_words(text: str) -> str:
    "Markdown without its marks."
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\\[a-zA-Z]+", lambda m: m[0][1:], text)
    return " ".join(re.sub(r"[#*`$>{}\\]|<[^>]+>|^\s*\|?\s*[-:|]+\s*$", "", text, flags=re.MULTILINE).split())


def slug(text: str) -> str:
    "The anchor of a heading: lower case, hyphens. Anchors as Jupyter writes them lead to the same."
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain_words(text)).strip().lower())


def split_fences(text: str) -> list[tuple[bool, str]]:
    "Pieces of a Markdown text, and whether they are fenced code."
    pieces, fence = [(False, [])], ""
    for line in text.splitlines(keepends=True):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and not fence:
            fence = mark[1]
            pieces.append((True, [line]))
        elif mark and fence and mark[1].startswith(fence) and line.strip() == mark[1]:
            pieces[-1][1].append(line)
            pieces.append((False, []))
            fence = ""
        else:
            pieces[-1][1].append(line)
    return [(code, "".join(lines)) for code, lines in pieces if lines]


@dataclass
class Cell:
    "One cell, without the directives in its source."
    kind: str
    source: str
    outputs: list
    id: str
    options: dict[str, str]                        # directive -> its value
    anchors: list[str] = field(default_factory=list)  # of the headings in it, in order

    @classmethod
    def read(cls, raw: dict, number: int) -> Cell:
        source = "".join(raw["source"])
        options = {}
        if raw["cell_type"] == "code":
            options = {m[1]: m[2].strip() for m in re.finditer(r"^#\|\s*([\w-]+):?(.*)$", source, re.MULTILINE)}
            source = re.sub(r"^#\|.*\n?", "", source, flags=re.MULTILINE).strip("\n")
        return cls(raw["cell_type"], source, raw.get("outputs", []), raw.get("id", f"cell{number}"), options)

    @property
    def exported(self) -> bool:
        return "export" in self.options

    @property
    def hidden(self) -> bool:
        return bool(HIDING & self.options.keys()) or self.options.get("include") == "false"

    @property
    def shows_code(self) -> bool:
        return bool(self.source) and self.options.get("echo") != "false" and "hide_input" not in self.options

    @property
    def shows_outputs(self) -> bool:
        return self.options.get("output") != "false" and "hide_output" not in self.options


class Page:
    "One notebook."

    def __init__(self, path: Path, root: Path):
        self.path = path.resolve()
        self.name = path.relative_to(root).as_posix()
        self.part = path.parent.relative_to(root).as_posix().strip(".")
        folder, stem = (re.sub(r"^\d+_", "", text) for text in (self.part, path.stem))
        self.number = (re.match(r"\d+", path.stem) or [""])[0]
        self.slug = stem
        self.target = f"{folder}/{stem}.md" if folder else f"{stem}.md"
        raw = json.loads(path.read_text(encoding="utf-8"))["cells"]
        self.cells = [Cell.read(cell, number) for number, cell in enumerate(raw) if cell["cell_type"] != "raw"]
        first = next((cell.source for cell in self.cells if cell.kind == "markdown"), f"# {stem}")
        self.title = plain_words(first.splitlines()[0])
        self.summary = plain_words(" ".join(re.findall(r"^>(.*)$", first, re.MULTILINE)))
        self.module = next((cell.options["default_exp"] for cell in self.cells if "default_exp" in cell.options), "")
        self.headings = self._find_headings()

    def _find_headings(self) -> dict[str, str]:
        "Anchor -> text of each heading; the same are noted in the cells."
        found = {}
        for cell in (cell for cell in self.cells if cell.kind == "markdown"):
            outside = "".join(text for code, text in split_fences(cell.source) if not code)
            for text in re.findall(r"^#{1,6} +(.+?)\s*$", outside, re.MULTILINE):
                anchor, n = slug(text) or "section", 1
                while (name := anchor if n == 1 else f"{anchor}_{n - 1}") in found:
                    n += 1
                found[name] = plain_words(text)
                cell.anchors.append(name)
        return found

    @property
    def up(self) -> str:
        "From this page to the top of the site."
        return "../" * self.target.count("/")


def read_book(root: Path) -> list[Page]:
    "Every notebook in reading order: index, tutorials, then the floors from the ground up."
    paths = [p for p in root.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(root).parts)]
    order = list(PARTS)

    def place(page: Page):
        known = order.index(page.part) if page.part in PARTS else len(order) - 1.5
        tutorial = FIRST.index(page.slug) if page.part == "tutorials" and page.slug in FIRST else len(FIRST)
        return page.target != "index.md", known, tutorial, page.name

    return sorted((Page(path, root) for path in paths), key=place)
