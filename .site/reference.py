"The API pages, read from the source of the exported cells: signatures with the comments that give shapes and units."
from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
from collections.abc import Callable
from dataclasses import dataclass, field

from book import PARTS, Page
from prose import escape, name_links

Resolve = Callable[[str], str]  # a name -> where its entry is, or ""


@dataclass
class Row:
    "A parameter, a field, or what is returned."
    name: str
    type: str
    default: str
    note: str  # shape, order, unit


@dataclass
class Symbol:
    "One exported name, or a method of one."
    name: str
    kind: str            # class, function, method, property, class method, static method, constant
    call: str            # as it is called, or the value of a constant
    doc: str
    rows: list[Row]
    source: str = ""
    anchor: str = ""     # of the heading in the chapter under which it is made
    methods: list[Symbol] = field(default_factory=list)


def anchor_of(name: str) -> str:
    "Where an entry stands on its page. Without double underscores, which would mean bold type."
    return name.replace("__", "")


class Comments:
    "The comments of a piece of source, by line."

    def __init__(self, source: str):
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        found = [token for token in tokens if token.type == tokenize.COMMENT]
        self.at = {token.start[0]: (token.start[1], token.string.lstrip("#: ").strip()) for token in found}
        self.alone = {token.start[0] for token in found if token.line.lstrip().startswith("#")}

    def after(self, line: int) -> str:
        "The comment that ends a line, with the lines of comment below it that begin in the same column."
        if line not in self.at:
            return ""
        column, text = self.at[line]
        while line + 1 in self.alone and self.at[line + 1][0] == column:
            line += 1
            text += " " + self.at[line][1]
        return text


def parameters(node: ast.FunctionDef, notes: Comments, bound: bool) -> list[Row]:
    "What a function takes and gives back. `bound` drops the first parameter."
    spec = node.args
    plain = [*spec.posonlyargs, *spec.args]
    defaults = dict(zip(plain[::-1], spec.defaults[::-1])) | dict(zip(spec.kwonlyargs, spec.kw_defaults))
    stars = {spec.vararg: "*", spec.kwarg: "**"}
    found = [*plain[bound:], *([spec.vararg] if spec.vararg else []), *spec.kwonlyargs, *([spec.kwarg] if spec.kwarg else [])]
    ends = {arg: (defaults.get(arg) or arg).end_lineno for arg in found}
    last_on_line = {end: arg for arg, end in ends.items()}
    returned = node.returns and node.returns.end_lineno
    rows = []
    for arg in found:
        note = notes.after(ends[arg]) if last_on_line[ends[arg]] is arg and ends[arg] != returned else ""
        default = ast.unparse(defaults[arg]) if defaults.get(arg) else ""
        rows.append(Row(stars.get(arg, "") + arg.arg, ast.unparse(arg.annotation) if arg.annotation else "", default, note))
    if node.returns and (ast.unparse(node.returns) != "None" or notes.after(returned)):
        rows.append(Row("return", ast.unparse(node.returns), "", notes.after(returned)))
    return rows


def as_called(name: str, rows: list[Row], keywords: str = "") -> str:
    "`name(a, b=1, *, c=2)`, over several lines where it is long. `keywords` is the first keyword-only parameter."
    words = []
    for row in (row for row in rows if row.name != "return"):
        words += [*(["*"] if row.name == keywords else []), row.name + (f"={row.default}" if row.default else "")]
    line = f"{name}({', '.join(words)})"
    return line if len(line) <= 88 else f"{name}(\n    " + ",\n    ".join(words) + ",\n)"


def call_of(name: str, node: ast.FunctionDef, rows: list[Row]) -> str:
    "How a function is called."
    bare = node.args.kwonlyargs and not node.args.vararg
    return as_called(name, rows, node.args.kwonlyargs[0].arg if bare else "")


def method(node: ast.FunctionDef, notes: Comments, owner: str) -> Symbol:
    "A method of a class."
    marks = {ast.unparse(mark).split("(")[0].split(".")[-1] for mark in node.decorator_list}
    kind = ("property" if marks & {"property", "cached_property"} else "class method" if "classmethod" in marks
            else "static method" if "staticmethod" in marks else "method")
    rows = parameters(node, notes, bound=kind != "static method")
    called = f"{owner}.{node.name}" if kind in ("class method", "static method") else f"{owner.lower()}.{node.name}"
    if node.name == "__call__":
        called = owner.lower()
    call = "" if kind == "property" else call_of(called, node, rows)
    return Symbol(f"{owner}.{node.name}", kind, call, ast.get_docstring(node) or "", rows)


def make_class(node: ast.ClassDef, notes: Comments) -> Symbol:
    "A class: its fields or what its constructor takes, and its public methods."
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and not item.target.id.startswith("_")]
    rows = [Row(item.target.id, ast.unparse(item.annotation), ast.unparse(item.value) if item.value else "",
                notes.after(item.end_lineno)) for item in fields]
    marks = [ast.unparse(mark) for mark in node.decorator_list]
    bases = [ast.unparse(base) for base in node.bases]
    call = ""
    if "__init__" in methods:
        rows = [row for row in parameters(methods["__init__"], notes, bound=True) if row.name != "return"]
        call = call_of(node.name, methods["__init__"], rows)
    kind = f"class ({', '.join(bases)})" if bases else "class"
    kind = "data class" if any("dataclass" in mark for mark in marks) else "named tuple" if "NamedTuple" in bases else kind
    if kind in ("data class", "named tuple") and "__init__" not in methods:
        call = as_called(node.name, rows)
    shown = [method(item, notes, node.name) for name, item in methods.items()
             if name == "__call__" or not name.startswith("_")]
    return Symbol(node.name, kind, call, ast.get_docstring(node) or "", rows, methods=shown)


def constants(node: ast.Assign | ast.AnnAssign, notes: Comments) -> list[Symbol]:
    "Named values."
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    named = [item.id for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)]
    value = ast.unparse(node.value) if node.value else ""
    if len(value) > 60:
        value = re.sub(r"\W*\w*$", "", value[:57]) + " …"
    return [Symbol(name, "constant", value if len(named) == 1 else "", notes.after(node.end_lineno), [])
            for name in named]


def read_symbols(page: Page) -> list[Symbol]:
    "What a notebook exports, in its order."
    found, anchor = [], ""
    for cell in page.cells:
        anchor = cell.anchors[-1] if cell.anchors else anchor
        if cell.kind != "code" or not cell.exported:
            continue
        notes = Comments(cell.source)
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.FunctionDef):
                rows = parameters(node, notes, bound=False)
                new = [Symbol(node.name, "function", call_of(node.name, node, rows), ast.get_docstring(node) or "", rows)]
            elif isinstance(node, ast.ClassDef):
                new = [make_class(node, notes)]
            else:
                new = constants(node, notes) if isinstance(node, (ast.Assign, ast.AnnAssign)) else []
            first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", []))])
            for symbol in new:
                symbol.source = "\n".join(cell.source.splitlines()[first - 1:node.end_lineno])
                symbol.anchor = anchor
            found += [symbol for symbol in new if not symbol.name.startswith("_")]
    return found


class Reference:
    "Every exported name of the book, and where its entry stands."

    def __init__(self, pages: list[Page], public: dict[str, str]):
        self.pages = [page for page in pages if page.module]
        self.symbols = {page.module: read_symbols(page) for page in self.pages}
        self.public = public  # names of the package itself -> module
        self.homes: dict[str, set[str]] = {}
        for module, symbols in self.symbols.items():
            for name in (name for symbol in symbols for name in (symbol.name, *(m.name for m in symbol.methods))):
                self.homes.setdefault(name, set()).add(module)

    def resolver(self, page: Page | None, up: str) -> Resolve:
        "Finds a name as a reader of the page means it: its own, one it imports, a public one, or the only one."
        source = "\n".join(cell.source for cell in page.cells if cell.kind == "code") if page else ""
        imported = {name.split(" as ")[0].strip(): module
                    for module, names in re.findall(r"^from yolo_nas_pose\.(\S+) import ([^()\n]+)$", source, re.MULTILINE)
                    for name in names.split(",")}

        def resolve(name: str) -> str:
            name = re.sub(r"^(yolo_nas_pose|ynp)\.", "", name)
            homes = self.homes.get(name, set())
            top = name.split(".")[0]
            wanted = [page.module if page else "", imported.get(top, ""), self.public.get(top, "")]
            module = next((module for module in wanted if module in homes), None)
            module = module or (next(iter(homes)) if len(homes) == 1 else None)
            return f"{up}api/{module}.md#{anchor_of(name)}" if module else ""
        return resolve


def typed(text: str, resolve: Resolve) -> str:
    "A type or value as code in which names of the book are links."
    if not text:
        return ""
    pieces = re.split(r"([A-Za-z_][\w.]*)", text)
    linked = (f"[{escape(piece)}]({target})" if k % 2 and not hasattr(builtins, piece) and (target := resolve(piece))
              else escape(piece) for k, piece in enumerate(pieces))
    return f"<code>{''.join(linked)}</code>"


def words(text: str, resolve: Resolve) -> str:
    "A comment or docstring: plain text, with code in backticks."
    pieces = re.split(r"(`[^`]+`)", text)
    return name_links("".join(piece if k % 2 else escape(piece) for k, piece in enumerate(pieces)), resolve)


def table(symbol: Symbol, resolve: Resolve) -> str:
    "Parameters or fields, one per line: type, default, shape and unit."
    if not symbol.rows:
        return ""
    if [row.name for row in symbol.rows] == ["return"]:
        row = symbol.rows[0]
        return f"*returns* {typed(row.type, resolve)}" + (f": {words(row.note, resolve)}" if row.note else "")
    has_default = any(row.default for row in symbol.rows)
    head = ["name", "type", *(["default"] if has_default else []), "shape, order, unit"]
    lines = ['<div class="parameters" markdown="1">\n', "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in symbol.rows:
        name = "*returns*" if row.name == "return" else f"<code>{escape(row.name)}</code>"
        default = row.default if len(row.default) <= 40 else row.default[:38] + " …"
        cells = [name, typed(row.type, resolve), *([typed(default, resolve)] if has_default else []), words(row.note, resolve)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "\n</div>"])


def entry(symbol: Symbol, resolve: Resolve, level: str) -> list[str]:
    "The parts that classes, functions and methods have in common."
    parts = [f"{level} `{symbol.name}` {{ #{anchor_of(symbol.name)} }}"]
    if symbol.call:
        parts.append(f"``` {{ .python .no-copy .signature }}\n{symbol.call}\n```")
    kind = "" if symbol.kind in ("function", "method") else f"*{escape(symbol.kind)}* · "
    parts += [kind + words(symbol.doc, resolve), table(symbol, resolve)]
    return [part for part in parts if part]


def api_page(page: Page, reference: Reference) -> str:
    "The page of one module."
    resolve = reference.resolver(page, "../")
    symbols = reference.symbols[page.module]
    parts = [f"# {page.module}", escape(page.summary),
             f"`from yolo_nas_pose.{page.module} import …` · chapter [{escape(page.title)}](../{page.target})\n{{ .meta }}"]
    named = [symbol for symbol in symbols if symbol.kind == "constant"]
    if named:
        lines = ["## Constants { #constants }", "", "| name | value | meaning |", "|---|---|---|"]
        lines += [f'| <code id="{s.name}">{escape(s.name)}</code> | {typed(s.call, resolve)} | {words(s.doc, resolve)} |'
                  for s in named]
        parts.append("\n".join(lines))
    for symbol in (symbol for symbol in symbols if symbol.kind != "constant"):
        parts += entry(symbol, resolve, "##")
        for item in symbol.methods:
            parts += entry(item, resolve, "###")
        heading = page.headings.get(symbol.anchor, page.title)
        parts.append(f"Explained in [{escape(page.title)}: {escape(heading)}](../{page.target}#{symbol.anchor})\n{{ .meta }}")
        head = f'<details class="source" markdown="1" data-search-exclude><summary>Source of <code>{symbol.name}</code></summary>'
        parts.append(f"{head}\n\n````python\n{symbol.source}\n````\n\n</details>")
    return "\n\n".join(parts) + "\n"


def first_line(symbol: Symbol) -> str:
    return re.split(r"(?<=[.!?])\s", symbol.doc.split("\n\n")[0].replace("\n", " "))[0]


def api_index(reference: Reference) -> str:
    "All modules, with what each exports."
    resolve = reference.resolver(None, "../")
    parts = ["# Reference", ("Everything the notebooks export, by module. Each entry lists types, shapes and units, shows "
                             "its source, and leads to the place in the book where it is explained.")]
    if reference.public:
        names = sorted((name for name in reference.public if resolve(name)), key=str.lower)
        parts.append("## Names of the package { #package }\n\nReachable as `yolo_nas_pose.NAME`, without looking for the module:")
        parts.append(" · ".join(f"[`{name}`]({resolve(name)})" for name in names))
    for part, (title, _, _) in PARTS.items():
        pages = [page for page in reference.pages if page.part == part]
        if pages:
            parts.append(f"## {title} {{ #{title.lower().replace(' ', '-')} }}")
        for page in pages:
            parts.append(f"### [{page.module}]({page.module}.md) {{ #{page.module} }}\n\n{escape(page.summary)}")
            lines = ['<div class="chapters" markdown="1">\n', "| name | what it is |", "|---|---|"]
            lines += [f"| [`{s.name}`]({page.module}.md#{s.name}) | {words(first_line(s), resolve)} |"
                      for s in reference.symbols[page.module] if s.kind != "constant"]
            parts.append("\n".join([*lines, "\n</div>"]))
    return "\n\n".join(parts).replace("](../api/", "](") + "\n"
