"The plan of the house: who imports whom, what an import costs, and what notebooks look like."
import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NBS, PACKAGE = ROOT / "nbs", ROOT / "yolo_nas_pose"
FLOORS = {"core": 1, "data": 2, "model": 2, "loss": 2, "metric": 2, "training": 3, "deploy": 4, "nas": 5, "commands": 5.5, "cli": 6}
NO_TORCH = ["core.structures", "core.skeleton", "core.affine", "core.draw", "core.bodies", "core.toy", "data.people", "data.categories", "data.coco", "data.transforms",
            "data.check", "data.raw_labels", "data.exports", "data.images", "data.formats", "data.files", "data.broken", "data.write", "data.cache", "data.mosaic", "data.anatomy",
            "data.chart", "data.doctor", "data.reference", "deploy.sources", "deploy.results", "deploy.engine", "deploy.runtime", "metric.trial", "metric.average_precision"]
RECIPE_READERS = ("training", "deploy.quantize", "deploy.qat", "nas", "commands", "cli")
# `model.predict(...)` is promised on the class: its method imports the upper floor when it is called.
# A quantised checkpoint loads itself, so reading one imports what it is made of.
UPWARD = {("model.network", "deploy.predict"), ("model.weights", "deploy.quantize")}


def notebooks():
    return sorted(p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts))


def cells(path):
    return [{**cell, "source": "".join(cell["source"])} for cell in json.loads(path.read_text())["cells"]]


def exports(path):
    "(module, number of the notebook) that a notebook exports to, or None."
    found = re.search(r"^#\|\s*default_exp (\S+)", "\n".join(c["source"] for c in cells(path)), re.M)
    return found and found.group(1)


BOOK = {exports(path): path for path in notebooks() if exports(path)}
NUMBER = {module: int((re.match(r"\d+", path.name) or ["99"])[0]) for module, path in BOOK.items()}


def imports(path, typing_only=False):
    "Modules imported anywhere in a file (also inside functions), except under TYPE_CHECKING."
    tree = ast.parse(path.read_text())
    hidden = {id(n) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
              for n in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:  # `from package import module` names the module
                module = f"{absolute(path, node)}.{alias.name}"
                yield module if module.removeprefix("yolo_nas_pose.") in BOOK else absolute(path, node)


def absolute(path, node):
    "The module that `from ... import` names; nbdev writes imports within the package as relative ones."
    if not node.level:
        return node.module
    package = (path.relative_to(ROOT).parent.parts)[:len(path.relative_to(ROOT).parts) - node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def module_file(module):
    return PACKAGE / (module.replace(".", "/") + ".py")


def test_modules_and_notebooks_are_one_to_one():
    generated = {str(p.relative_to(PACKAGE).with_suffix("")).replace(os.sep, ".") for p in PACKAGE.rglob("*.py")
                 if p.name not in ("__init__.py", "_modidx.py")}
    assert generated == set(BOOK)
    for module, path in BOOK.items():
        part = re.sub(r"^\d+_", "", path.parent.name) if path.parent != NBS else ""
        name = re.sub(r"^\d+_", "", path.stem)
        assert module == (f"{part}.{name}" if part else name), path


@pytest.mark.parametrize("module", sorted(BOOK))
def test_imports_go_down(module):
    part = module.split(".")[0]
    for name in imports(module_file(module)):
        if not name.startswith("yolo_nas_pose."):
            continue
        target = name.removeprefix("yolo_nas_pose.")
        other = target.split(".")[0]
        if (module, target) in UPWARD:
            continue
        assert target in BOOK, f"{module} imports {target}: name the module, not a package"
        if other == part:
            assert NUMBER[target] < NUMBER[module], f"{module} imports {target}, which comes later"
        else:
            assert FLOORS[other] < FLOORS[part], f"{module} imports {target}, which is not on a lower floor"
        if target == "training.recipe":
            assert module.startswith(RECIPE_READERS), f"{module} reads recipes"


@pytest.mark.parametrize("module", sorted(BOOK))
def test_light_imports(module):
    tree = ast.parse(module_file(module).read_text())
    top = [name for node in tree.body for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else
           [absolute(module_file(module), node)] if isinstance(node, ast.ImportFrom) else [])]
    assert not any(name.split(".")[0] == "matplotlib" for name in top), f"{module}: matplotlib belongs inside functions"
    assert not any(name.split(".")[0] in ("fastcore", "nbdev", "torchvision") for name in imports(module_file(module)))


@pytest.mark.parametrize("module", [m for m in NO_TORCH if m in BOOK])
def test_torch_free(module):
    code = f"import sys, yolo_nas_pose.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0, f"{module} imports torch"


def test_import_is_lazy_and_cheap():
    code = ("import sys, time, threading; n = len(sys.modules); t = time.perf_counter(); import yolo_nas_pose;"
            "t = time.perf_counter() - t; heavy = {'torch', 'numpy', 'cv2', 'matplotlib'} & set(sys.modules);"
            "assert not heavy, heavy; assert threading.active_count() == 1; assert len(sys.modules) - n < 12; print(t)")
    times = [float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
             for _ in range(3)]
    assert min(times) < .05


def test_import_has_no_side_effect(tmp_path):
    code = ("import os, sys; before = (sys.stdout, dict(os.environ), os.getcwd()); import yolo_nas_pose;"
            "assert before == (sys.stdout, dict(os.environ), os.getcwd())")
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr, list(tmp_path.iterdir())) == ("", "", [])


def test_every_public_name_resolves():
    import yolo_nas_pose
    assert yolo_nas_pose.__all__
    for name in yolo_nas_pose.__all__:
        home = importlib.import_module(f"yolo_nas_pose.{yolo_nas_pose._HOME[name]}")
        assert name in home.__all__, f"{name} is not exported by {home.__name__}"
        assert getattr(yolo_nas_pose, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        yolo_nas_pose.nothing_like_it


def test_version_is_stated_once_and_truly():
    import yolo_nas_pose
    settings = (ROOT / "settings.ini").read_text()
    assert f"version = {yolo_nas_pose.__version__}\n" in settings


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
def test_notebook_style(path):
    book = cells(path)
    lines = [sum(1 for line in c["source"].splitlines() if line.strip()) for c in book]
    exported = [n for c, n in zip(book, lines) if c["source"].lstrip().startswith("#| export")]
    prose = [c for c in book if c["cell_type"] == "markdown"]
    pictures = [o for c in book for o in c.get("outputs", []) if {"image/png", "image/jpeg"} & set(o.get("data", {}))]
    first = next(c for c in book if c["cell_type"] != "raw")["source"].splitlines()
    assert first[0].startswith("# ") and first[1] == "" and first[2].startswith("> "), "opens with a title and one line"
    assert all(n <= 45 for n in exported), f"exported cells of {[n for n in exported if n > 45]} lines"
    assert sum(exported) <= 330, f"{sum(exported)} exported lines"
    assert len(prose) * 3 >= len(book), f"{len(prose)} of {len(book)} cells are prose"
    assert sum("#| hide" in c["source"] for c in book if c["cell_type"] == "code") <= 2
    assert pictures, "no figure"
    assert path.stat().st_size <= 400_000
    for out in pictures:
        data = out["data"].get("image/png") or out["data"]["image/jpeg"]
        assert len("".join(data)) * .75 <= 60_000, "a figure of more than 60 kB"
    assert not any("import *" in c["source"] for c in book)
    assert not any(o.get("output_type") == "error" for c in book for o in c.get("outputs", []))


@pytest.mark.parametrize("path", [p for p in notebooks() if exports(p)], ids=lambda p: p.stem)
def test_exported_signatures_say_what_they_take(path):
    "Every public function has a docstring, and every parameter of it a type or a comment."
    module = importlib.import_module(f"yolo_nas_pose.{exports(path)}")
    import inspect
    for name in module.__all__:
        symbol = getattr(module, name)
        if inspect.isfunction(symbol) or inspect.isclass(symbol):
            assert inspect.getdoc(symbol), f"{module.__name__}.{name} has no docstring"


def test_nothing_private_is_mentioned():
    "The project speaks of itself alone."
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = tracked.stdout.split() if tracked.returncode == 0 else []
    for name in names:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".yml", ".ini", ".toml", ".ipynb", "") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not re.search(r"/(?:work|home/\w+|root|opt)/", text), f"{name} holds a path of one machine"


@pytest.mark.parametrize("path", sorted((NBS / "tutorials").glob("*.ipynb")), ids=lambda p: p.stem)
def test_tutorials_begin_as_promised(path):
    "What it costs is said, one cell installs and leaves torch and NumPy alone, and a picture comes within the first three cells."
    book = cells(path)
    installs = [c["source"] for c in book if c["cell_type"] == "code" and "%pip install" in c["source"]]
    assert len(installs) == 1 and book[1]["source"] == installs[0] and "find_spec" in installs[0]
    assert not re.search(r"install.*\b(torch|numpy)\b", installs[0])
    pictures = [n for n, c in enumerate(book) for o in c.get("outputs", []) if {"image/png", "image/jpeg"} & set(o.get("data", {}))]
    assert pictures[0] <= 2, f"the first picture is in cell {pictures[0] + 1}"
    words = " ".join(c["source"] for c in book[:4] if c["cell_type"] == "markdown")
    assert re.search("minute|second", words) and "download" in words.lower(), "runtime and download are not stated"
