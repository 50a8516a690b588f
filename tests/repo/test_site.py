"The site and README.md, built from a few notebooks: links, formulas, signatures with shapes, nothing from the network."
import ast
import base64
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / ".site" / "build.py"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

SHAPES = '''#| export
SIDE = 4  # of a box, cells


def grow(
    boxes: Tensor,       # (N, 4) xyxy, input px
    by: float | None = None,  # factor * 2, or
                              # nothing
    *,
    what: Shape = (1, 2),
) -> tuple[Tensor, Shape]:  # (N, 4) xyxy, input px
    "Boxes that are larger. See `Shape`."
    return boxes, what


class Shape(NamedTuple):
    "A size. Raises nothing."
    height: int  # px
    width: int   # px | source

    @property
    def area(self) -> int:
        "Pixels."
        return self.height * self.width

    def __call__(self, by: int) -> Shape:
        "A shape that is larger, as `Shape.__call__` says."
        return Shape(self.height + by, self.width + by)
'''


def markdown(source):
    return {"cell_type": "markdown", "id": f"m{abs(hash(source)) % 10**6}", "metadata": {}, "source": source}


def code(source, *outputs):
    return {"cell_type": "code", "id": f"c{abs(hash(source)) % 10**6}", "metadata": {}, "execution_count": None,
            "source": source, "outputs": list(outputs)}


def picture(kind="image/png"):
    return {"output_type": "display_data", "metadata": {}, "data": {kind: PIXEL, "text/plain": "<Figure>"}}


def printed(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")


def make_book(nbs):
    "Index, one chapter with exports, one tutorial."
    (nbs / "images").mkdir(parents=True)
    (nbs / "images" / "people.png").write_bytes(base64.b64decode(PIXEL))
    write(nbs / "index.ipynb",
          markdown("# Home\n\n> Begin here.\n\n![people](images/people.png)"),
          markdown("<!-- main command -->\n```bash\nrun [it](x.ipynb)\n```\n"
                   "Read [Shapes](0_core/01_shapes.ipynb#Growing-boxes) and the [licence](../LICENSE), $5 or `$x$`."),
          code("#| hide\nsecret = 1", printed("whisper")),
          code("#| echo: false\ndraw()", picture("image/jpeg")),
          code("print('hello')", printed("hello\n")),
          markdown("## Five lines\n\n```python\nimport this\n```\n\n## At once  \n```bash\nls\n```\n\n## Last"))
    write(nbs / "0_core" / "01_shapes.ipynb",
          markdown("# Shapes\n\n> What is large, and how large."),
          code("#| default_exp core.shapes"),
          code("#| export\nfrom typing import NamedTuple\nfrom torch import Tensor"),
          markdown("## Growing boxes\n\nWith $a_1 * b_1 * \\sigma$:\n- one\n- two\n  - nested\n\n$$\\sum_{k=0}^{3} \\frac{p_k}{2}$$"),
          code(SHAPES),
          markdown("Two ways of growing. The left box is small."),
          code("#| slow\nplot()", picture()),
          markdown("<details><summary>Solution</summary>\n`grow` **well**.\n</details>\n\nNext: [First](../tutorials/first.ipynb)"))
    write(nbs / "tutorials" / "first.ipynb",
          markdown("# First steps\n\n> From nothing to something."),
          markdown("## Again\n\n[Up](#again), [Home](../index.ipynb)"), code("1 + 1", printed("\x1b[31mtwo\x1b[0m")))


def build(folder, *options):
    return subprocess.run([sys.executable, BUILD, "--nbs", folder / "nbs", "--out", folder / "site", "--work", folder / "work",
                           *options], check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A folder with the notebooks in nbs/ and the site in site/."
    pytest.importorskip("material", reason="needs mkdocs-material (extra dev)")
    pytest.importorskip("latex2mathml", reason="needs latex2mathml (extra dev)")
    folder = tmp_path_factory.mktemp("book")
    make_book(folder / "nbs")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


class Tags(HTMLParser):
    "All tags of a page, with their attributes."

    def __init__(self, path):
        super().__init__()
        self.tags = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_links_lead_somewhere(site):
    pages = {path: Tags(path).tags for path in site.rglob("*.html") if path.name != "404.html"}
    names = {path: {a.get("id") or a.get("name") for _, a in tags} for path, tags in pages.items()}
    followed = 0
    for path, tags in pages.items():
        for target in (a.get("href") or a.get("src") for _, a in tags):
            if not target or re.match(r"\w+:", target):
                continue
            place, _, anchor = unquote(target).partition("#")
            file = (path.parent / place).resolve() if place else path
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{path.name}: {target}"
            assert not anchor or file.suffix != ".html" or anchor in names[file], f"{path.name}: no anchor {target}"
            followed += 1
    assert followed > 50


def test_nothing_comes_from_the_network(site):
    for path in site.rglob("*.html"):
        for tag, attributes in Tags(path).tags:
            asset = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
            if attributes.get("rel") != "canonical":
                assert not re.match(r"(https?:)?//", asset or ""), f"{path.name}: {tag} {asset}"
            assert attributes.get("data-md-component") != "source", "this link would ask api.github.com"
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_pages_show_what_the_notebooks_hold(site):
    text = (site / "core" / "shapes.html").read_text(encoding="utf-8")
    assert "<math" in text and "<munderover>" in text and "a_1" not in text
    assert "#|" not in text and "default_exp" not in text and "Imports of" in text
    assert re.search(r'<img alt="Two ways of growing\. The left box is small\."[^>]*src="figures/shapes_1\.png"', text)
    assert re.search(r"<li>two\s*<ul>\s*<li>nested", text)
    assert re.search(r"<details>\s*<summary>Solution</summary>.*<strong>well</strong>.*</details>", text, re.DOTALL)
    assert "yolo_nas_pose/core/shapes.py" in text and 'href="../api/core.shapes.html#grow"' in text
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "whisper" not in home and "secret" not in home and "draw()" not in home and "hello" in home
    assert 'href="core/shapes.html#growing-boxes"' in home and "/blob/main/LICENSE" in home and "$5" in home
    assert "[31m" not in (site / "tutorials" / "first.html").read_text(encoding="utf-8")


def test_no_mark_of_markdown_is_left(site):
    "Fences and anchors are drawn, also where a fence comes right after a heading."
    for path in site.rglob("*.html"):
        text = re.sub(r"<(pre|script|style)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not (left := re.search(r".*(```|\{ ?[#.]).*", text)), f"{path.name}: {left[0]}"
    home = (site / "index.html").read_text(encoding="utf-8")
    for anchor, title in (("five-lines", "Five lines"), ("at-once", "At once"), ("last", "Last")):
        assert re.search(rf'<h2 id="{anchor}">{title}<a', home), f"no heading {title}"
    assert len(re.findall(r"<pre", home)) >= 4


def test_methods_with_underscores_have_an_entry(site):
    text = (site / "api" / "core.shapes.html").read_text(encoding="utf-8")
    assert re.search(r'<h3 id="Shape\.call"><code>Shape\.__call__</code>', text)
    assert re.search(r'href="(core\.shapes\.html)?#Shape\.call"[^>]*><code>Shape\.__call__</code>', text)


def test_reference_tells_shapes(site):
    text = re.sub(r"<[^>]+>", " ", (site / "api" / "core.shapes.html").read_text(encoding="utf-8"))
    text = " ".join(html.unescape(text).split())
    for words in ("grow ( boxes , by = None , * , what = ( 1 , 2 ))", "boxes Tensor (N, 4) xyxy, input px", "returns tuple[Tensor, Shape ]",
                  "by float | None None factor * 2, or nothing", "width int px | source", "named tuple · A size. Raises nothing.",
                  "SIDE 4 of a box, cells", "Explained in Shapes: Growing boxes", "Shape.area", "return self . height * self . width"):
        assert " ".join(words.split()) in text, f"{words!r} not in {text}"
    index = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert 'href="core.shapes.html#grow"' in index and "Boxes that are larger." in index


def test_map_and_search_know_every_notebook(site):
    text = (site / "map.html").read_text(encoding="utf-8")
    assert "What is large, and how large." in text and "From nothing to something." in text and "house" in text
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert {"index.html", "core/shapes.html", "tutorials/first.html", "api/core.shapes.html"} <= {d["location"] for d in found["docs"]}


def test_broken_links_are_named(tmp_path):
    pytest.importorskip("material", reason="needs mkdocs-material (extra dev)")
    make_book(tmp_path / "nbs")
    write(tmp_path / "nbs" / "tutorials" / "second.ipynb", markdown(
        "# Second\n\n> More.\n\n[a](gone.ipynb) [b](first.ipynb#nowhere) ![c](none.png) ![d](https://example.org/e.png) $\\nosuch x$"))
    done = build(tmp_path)
    assert done.returncode == 1
    for fault in ("tutorials/second.ipynb: link to gone.ipynb", "has no heading #nowhere", "no picture none.png",
                  "https://example.org/e.png comes from the network", r"\nosuch cannot be drawn"):
        assert fault in done.stderr, done.stderr


def test_readme_is_plain_and_the_same_twice(tmp_path):
    make_book(tmp_path / "nbs")
    command = [sys.executable, BUILD, "--readme", "--nbs", tmp_path / "nbs"]
    (tmp_path / "nbs" / "images" / "readme_7.png").write_bytes(b"left over")
    subprocess.run(command, check=True)
    text, stored = (tmp_path / "README.md").read_text(encoding="utf-8"), tmp_path / "nbs" / "images" / "readme_1.jpg"
    assert stored.read_bytes() == base64.b64decode(PIXEL)
    assert {path.name for path in stored.parent.iterdir()} == {"people.png", "readme_1.jpg"}
    assert "<!-- main command -->\n```bash\nrun [it](x.ipynb)\n```" in text
    assert "![people](nbs/images/people.png)" in text and "](nbs/images/readme_1.jpg)" in text
    assert "(nbs/0_core/01_shapes.ipynb#Growing-boxes)" in text and "[licence](LICENSE)" in text
    assert "```python\nprint('hello')\n```\n\n```text\nhello\n```" in text and "$5 or `$x$`" in text
    assert not re.search(r"#\||whisper|draw\(\)|\{ |<math|markdown=", text)
    before = stored.stat().st_mtime_ns
    subprocess.run(command, check=True)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text and stored.stat().st_mtime_ns == before


def test_builder_is_readable():
    for path in (ROOT / ".site").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 45, f"{path.name}: {node.name} is too long"


def test_pages_stand_in_reading_order_even_where_a_tutorial_has_the_same_name(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / ".site"))
    from book import read_book
    numbers = [page.number for page in read_book(ROOT / "nbs") if page.part == "6_deploy"]
    assert numbers == sorted(numbers) and len(numbers) > 15
