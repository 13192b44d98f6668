"""Checks of the code's own form.

Owns the rules of CONTRIBUTING.md that a linter does not know or that a comment could switch off:
names, sizes, docstrings, forbidden constructs, the purity of the pure cores, the links between
documents and the agreement of the two distributions. Never runs the code it reads. Every check
is a function over source text, and each is shown offending text that it must find and innocent
text that it must leave alone.
"""

import ast
import importlib.metadata
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
MODULE_SENTENCES_MIN = 2

GENERATED_FOLDERS = frozenset({"__pycache__", "build", "dist", "out"})
DAEMON = ("aggregation", "bench", "cli.py", "consensus", "ledger", "node", "p2p", "store")
PURE_CORES = ("aggregation", "consensus", "ledger", "sdk/quorate/chain")
SDK_LIBRARIES = frozenset({"anyio", "httpx", "msgpack", "msgspec", "nacl", "numpy", "quorate"})

VAGUE_NAMES = frozenset({"common", "helper", "helpers", "manager", "misc", "util", "utils"})
IMPURE_MODULES = frozenset(
    {
        "asyncio", "datetime", "io", "logging", "os", "pathlib", "random", "secrets", "shutil",
        "socket", "subprocess", "tempfile", "time", "trio", "uuid",
    }
)  # fmt: skip
IMPURE_CALLS = frozenset({"breakpoint", "input", "open", "print"})
UNSAFE_MODULES = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})
UNSAFE_CALLS = frozenset({"eval", "exec"})
LEARNS_TYPES = "sdk/quorate/chain/known_types.py"
ORDER_FREE_CALLS = frozenset(
    {"all", "any", "frozenset", "len", "max", "min", "set", "sorted", "sum"}
)
ORDERED_CALLS = frozenset({"enumerate", "iter", "list", "map", "reversed", "tuple", "zip"})
SET_METHODS = frozenset({"difference", "intersection", "symmetric_difference", "union"})
SET_TYPES = frozenset({"AbstractSet", "FrozenSet", "MutableSet", "Set", "frozenset", "set"})

# Written so that this file, too, passes: no pattern matches its own text.
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|X{3}|HA[C]K|NotImplemented[E]rror)\b")
MACHINE_PATH = re.compile(r"(?<![\w.)}])/(?:root|work|home/\w+)/")
REGISTRY = re.compile(r"pypi\.org|pythonhosted\.|/s[i]mple/")


@dataclass(frozen=True)
class Source:
    """One text file: its path from the repository's root, and what it says."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree of a Python file."""
        return ast.parse(self.text, self.path)

    @cached_property
    def lines(self) -> list[str]:
        """The lines, without their ends."""
        return self.text.splitlines()

    @cached_property
    def comments(self) -> dict[int, str]:
        """What each line's comment says beside orders to tools, by line number."""
        found = {}
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                words = re.sub(r"(noqa|type: ignore|pragma)\S*(\s+[A-Z]+\d+,?)*", "", token.string)
                found[token.start[0]] = words.strip("# :,-")
        return found

    def is_in(self, *places: str) -> bool:
        """Whether the file is one of the places or lies below one."""
        return any(PurePosixPath(self.path).is_relative_to(place) for place in places)

    @property
    def is_python(self) -> bool:
        """Whether the file is Python."""
        return self.path.endswith(".py")

    @property
    def is_product(self) -> bool:
        """Whether the file is Python outside the tests."""
        return self.is_python and not self.is_in("tests")

    @property
    def is_pure(self) -> bool:
        """Whether the file belongs to a pure core."""
        return self.is_python and self.is_in(*PURE_CORES)

    def at(self, line: int, message: str) -> str:
        """A finding, as an editor can jump to it."""
        return f"{self.path}:{line}: {message}"


Findings = Iterator[str]


# --- text ----------------------------------------------------------------------------------------


def find_unfinished_marks(source: Source) -> Findings:
    """What is on main is finished."""
    for number, line in enumerate(source.lines, 1):
        if UNFINISHED.search(line):
            yield source.at(number, "an unfinished mark")


def find_machine_paths(source: Source) -> Findings:
    """No absolute path of somebody's machine."""
    for number, line in enumerate(source.lines, 1):
        if MACHINE_PATH.search(line):
            yield source.at(number, "an absolute path of one machine")


def find_registry_addresses(source: Source) -> Findings:
    """Which package registry is asked is the business of the machine's own settings."""
    for number, line in enumerate(source.lines, 1):
        if REGISTRY.search(line):
            yield source.at(number, "the address of a package registry")


def find_long_lines(source: Source) -> Findings:
    """Lines stay within the limit; prose in Markdown and the lock file wrap as they like."""
    if source.path.endswith((".md", ".lock")):
        return
    for number, line in enumerate(source.lines, 1):
        if len(line) > COLUMNS_MAX:
            yield source.at(number, f"{len(line)} columns, at most {COLUMNS_MAX}")


# --- names and sizes -----------------------------------------------------------------------------


def find_vague_names(source: Source) -> Findings:
    """A module is named for what it holds."""
    path = PurePosixPath(source.path)
    for part in (*path.parent.parts, path.stem):
        if source.is_python and part.removeprefix("test_").strip("_") in VAGUE_NAMES:
            yield source.at(1, f"the name {part!r} says nothing")


def find_long_files(source: Source) -> Findings:
    """A file past the limit holds two things."""
    if source.is_product and len(source.lines) > FILE_LINES_MAX:
        yield source.at(1, f"{len(source.lines)} lines, at most {FILE_LINES_MAX}")


def find_long_functions(source: Source) -> Findings:
    """A function fits on a screen, its docstring aside."""
    if not source.is_product:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            is_documented = ast.get_docstring(node) is not None
            docstring = (first.end_lineno or 0) - first.lineno + 1 if is_documented else 0
            length = (node.end_lineno or 0) - node.lineno + 1 - docstring
            if length > FUNCTION_LINES_MAX:
                yield source.at(node.lineno, f"{node.name}: {length} lines of code")


# --- docstrings ----------------------------------------------------------------------------------


def find_poor_module_docstrings(source: Source) -> Findings:
    """A module's docstring says what it owns and what it never does."""
    if not source.is_product:
        return
    docstring = ast.get_docstring(source.tree) or ""
    if len(re.findall(r"[.!?](?=\s|$)", docstring)) < MODULE_SENTENCES_MIN:
        yield source.at(1, "the module's docstring: what it owns, and what it never does")


def find_undocumented_definitions(source: Source) -> Findings:
    """Everything public has a docstring."""
    if not source.is_product:
        return
    for node in iterate_public_definitions(source.tree):
        decorators = {ast.unparse(item).rpartition(".")[2] for item in node.decorator_list}
        if ast.get_docstring(node) is None and not decorators & {"overload", "override", "setter"}:
            yield source.at(node.lineno, f"{node.name} has no docstring")


def iterate_public_definitions(
    parent: ast.Module | ast.ClassDef,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Walk over the public functions and classes of a module, and those of its public classes."""
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            yield node
            if isinstance(node, ast.ClassDef):
                yield from iterate_public_definitions(node)


# --- forbidden constructs ------------------------------------------------------------------------


def find_bare_asserts(source: Source) -> Findings:
    """What must hold in production is checked in production, under python -O too."""
    if source.is_product:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assert):
                yield source.at(node.lineno, "assert vanishes under python -O; raise an error")


def find_any(source: Source) -> Findings:
    """Types are said, but in the one file that touches py-libp2p, which has few."""
    if not source.is_product or "libp2p" in {name for name, _ in iterate_imports(source)}:
        return
    for node in ast.walk(source.tree):
        name = getattr(node, "id", getattr(node, "attr", None))
        if name == "Any" and isinstance(node, ast.Name | ast.Attribute):
            yield source.at(node.lineno, "Any outside the file that imports libp2p")


def find_broad_excepts(source: Source) -> Findings:
    """Who catches everything says why, on that line or next to it."""
    if not source.is_product:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and is_broad(node.type):
            nearby = range(node.lineno - 1, node.lineno + 2)
            reasons = [source.comments.get(line) for line in nearby]
            if not any(reasons):
                yield source.at(node.lineno, "a broad except without a comment that says why")


def is_broad(caught: ast.expr | None) -> bool:
    """Whether an except clause catches (nearly) everything."""
    if caught is None:
        return True
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(n, ast.Name) and n.id in {"Exception", "BaseException"} for n in names)


def find_unsafe_constructs(source: Source) -> Findings:
    """Nothing is ever unpickled, and no text becomes code."""
    if not source.is_product:
        return
    for name, line in iterate_imports(source):
        if name in UNSAFE_MODULES:
            yield source.at(line, f"{name} runs what it reads")
    for node in iterate_calls(source.tree):
        if isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            yield source.at(node.lineno, f"{node.func.id} runs what it reads")


def iterate_imports(source: Source) -> Iterator[tuple[str, int]]:
    """Walk over the top-level names that a file imports, each with its line."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0], node.lineno


def iterate_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Walk over the calls of a tree."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def find_unguarded_learning(source: Source) -> Findings:
    """msgspec learns types behind one lock: two threads that learn one at once crash it."""
    if not source.is_product or source.path == LEARNS_TYPES:
        return
    at_import = {
        id(call)
        for statement in source.tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for call in iterate_calls(statement)
    }
    for node in iterate_calls(source.tree):
        called = ast.unparse(node.func)
        is_typed = any(keyword.arg == "type" for keyword in node.keywords)
        if (
            called in {"msgspec.convert", "convert"}
            or called.rpartition(".")[2] in {"type_info", "multi_type_info"}
            or (called.endswith(("json.decode", "msgpack.decode")) and is_typed)
            or (called.endswith(".Decoder") and id(node) not in at_import)
        ):
            yield source.at(node.lineno, f"{called} learns a type outside {LEARNS_TYPES}")


# --- layers that import-linter cannot see --------------------------------------------------------


def find_upward_imports(source: Source) -> Findings:
    """Nothing stands on the command line or on the benchmarks but they themselves."""
    if not source.is_product or source.is_in("bench", "cli.py"):
        return
    for name, line in iterate_imports(source):
        if name in {"bench", "cli", "tests"}:
            yield source.at(line, f"{name} is above this file")


def find_asyncio(source: Source) -> Findings:
    """The daemon knows one event loop, trio's."""
    if source.is_python and source.is_in(*DAEMON):
        for name, line in iterate_imports(source):
            if name == "asyncio":
                yield source.at(line, "the daemon runs on trio alone")


def find_foreign_sdk_imports(source: Source) -> Findings:
    """The SDK lives in a participant's environment, so it asks for little there."""
    if not (source.is_python and source.is_in("sdk")):
        return
    for name, line in iterate_imports(source):
        if name not in SDK_LIBRARIES and name not in sys.stdlib_module_names:
            yield source.at(line, f"the SDK does not depend on {name}")


# --- purity --------------------------------------------------------------------------------------


def find_impurities(source: Source) -> Findings:
    """The pure cores do no I/O, read no clock and draw no random numbers."""
    if not source.is_pure:
        return
    for name, line in iterate_imports(source):
        if name in IMPURE_MODULES:
            yield source.at(line, f"a pure core imports {name}")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"np.random", "numpy.random"}:
            yield source.at(node.lineno, "a pure core draws random numbers")
    for call in iterate_calls(source.tree):
        if isinstance(call.func, ast.Name) and call.func.id in IMPURE_CALLS:
            yield source.at(call.lineno, f"a pure core calls {call.func.id}")


def find_set_iterations(source: Source) -> Findings:
    """The order of a set differs from process to process, so no result may come of it."""
    if not source.is_pure:
        return
    names = collect_set_names(source.tree)
    order_free = {
        id(argument)
        for call in iterate_calls(source.tree)
        if isinstance(call.func, ast.Name) and call.func.id in ORDER_FREE_CALLS
        for argument in call.args
    }
    for node in ast.walk(source.tree):
        iterated: list[ast.expr] = []
        if isinstance(node, ast.For):
            iterated = [node.iter]
        elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
            if id(node) not in order_free:
                iterated = [generator.iter for generator in node.generators]
        elif isinstance(node, ast.Starred):
            iterated = [node.value]
        elif isinstance(node, ast.Call) and is_order_taking(node.func):
            iterated = node.args
        for expression in iterated:
            if is_set(expression, names):
                yield source.at(expression.lineno, "iterates over a set; sort it first")


def is_order_taking(function: ast.expr) -> bool:
    """Whether a call of the function passes on the order of what it is given."""
    if isinstance(function, ast.Attribute):
        return function.attr in {"extend", "fromkeys", "join"}
    return isinstance(function, ast.Name) and function.id in ORDERED_CALLS


def collect_set_names(tree: ast.AST) -> frozenset[str]:
    """Collect the names and attributes that a file binds or annotates as sets."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            if is_set_annotation(node.annotation):
                names.add(node.arg if isinstance(node, ast.arg) else ast.unparse(node.target))
        elif isinstance(node, ast.Assign) and is_set(node.value, frozenset(names)):
            names.update(ast.unparse(target) for target in node.targets)
    return frozenset(name.rpartition(".")[2] for name in names)


def is_set_annotation(annotation: ast.expr) -> bool:
    """Whether an annotation names a set type."""
    base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return ast.unparse(base).rpartition(".")[2] in SET_TYPES


def is_set(node: ast.expr, names: frozenset[str]) -> bool:
    """Whether an expression is a set, as far as its own text tells."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in names
        case ast.Call(func=ast.Name(id=name)):
            return name in {"set", "frozenset"}
        case ast.Call(func=ast.Attribute(attr=name)):
            return name in SET_METHODS
        case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
            return is_set(left, names)
    return False


# --- each check, on the tree and on samples ------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A check with texts that it must find fault with, and texts that it must let pass."""

    find: Callable[[Source], Findings]
    offending: tuple[tuple[str, str], ...] = field(repr=False)
    innocent: tuple[tuple[str, str], ...] = field(repr=False)


NODE = "node/mempool.py"
CORE = "ledger/state.py"
LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX
MARK, RAISED = "ODOT"[::-1], "rorrEdetnemelpmItoN"[::-1]
HOME, INDEX = "nna/emoh/"[::-1], "elpmis/gro.ipyp//:sptth"[::-1]
DOCUMENTED_FUNCTION = 'def f():\n    """A.\n' + "\n" * 60 + '    """\n' + "    x = 1\n" * 60

CHECKS = (
    Check(
        find_unfinished_marks,
        ((NODE, f"# {MARK}: later\n"), ("docs/a.md", f"- {MARK}\n"), (NODE, f"raise {RAISED}\n")),
        ((NODE, "todos = mastodon\n"),),
    ),
    Check(
        find_machine_paths,
        ((NODE, f"x = '{HOME}/x'\n"), ("docs/a.md", f"in {HOME}/quorate\n")),
        ((NODE, "x = 'a/work/b', '/v1/root'\n"),),
    ),
    Check(
        find_registry_addresses,
        (("Makefile", f"--index-url {INDEX}\n"),),
        ((NODE, "x = 'a simple thing'\n"),),
    ),
    Check(
        find_long_lines,
        ((NODE, "x" * (COLUMNS_MAX + 1)), ("Makefile", "x" * (COLUMNS_MAX + 1))),
        ((NODE, "x" * COLUMNS_MAX), ("README.md", "x" * 200)),
    ),
    Check(
        find_vague_names,
        (("node/utils.py", ""), ("node/helpers/a.py", ""), ("tests/test_misc.py", "")),
        ((NODE, ""), ("docs/common.md", "")),
    ),
    Check(
        find_long_files,
        ((NODE, "x = 1\n" * (FILE_LINES_MAX + 1)),),
        ((NODE, "x = 1\n" * FILE_LINES_MAX), ("tests/test_a.py", "x = 1\n" * 900)),
    ),
    Check(
        find_long_functions,
        ((NODE, LONG_FUNCTION), (NODE, "async " + LONG_FUNCTION)),
        ((NODE, DOCUMENTED_FUNCTION), ("tests/test_a.py", LONG_FUNCTION)),
    ),
    Check(
        find_poor_module_docstrings,
        ((NODE, "x = 1\n"), (NODE, '"""Owns the mempool."""\n')),
        ((NODE, '"""Owns the mempool.\n\nNever signs.\n"""\n'), ("tests/test_a.py", "x = 1\n")),
    ),
    Check(
        find_undocumented_definitions,
        (
            (NODE, "def f():\n    return 1\n"),
            (NODE, 'class A:\n    """A."""\n\n    async def f(self):\n        return 1\n'),
        ),
        (
            (NODE, 'def _f():\n    return 1\n\n\nclass A:\n    """A."""\n'),
            (NODE, "class _A:\n    def f(self):\n        return 1\n"),
            (NODE, "@typing.overload\ndef f(): ...\n"),
        ),
    ),
    Check(
        find_bare_asserts,
        ((NODE, "assert x\n"), ("bench/load.py", "def f():\n    assert x, 'y'\n")),
        ((NODE, "assert_never(x)\n"), ("tests/test_a.py", "assert x\n")),
    ),
    Check(
        find_any,
        ((NODE, "x: Any = 1\n"), (NODE, "x: dict[str, typing.Any] = {}\n")),
        (("p2p/host.py", "import libp2p\n\nx: Any = 1\n"), (NODE, "x: Anything = any(y)\n")),
    ),
    Check(
        find_broad_excepts,
        (
            (NODE, "try:\n    f()\nexcept Exception:\n    g()\n"),
            (NODE, "try:\n    f()\nexcept:\n    g()\n"),
            (NODE, "try:\n    f()\nexcept (ValueError, BaseException):  # noqa: BLE001\n    g()\n"),
        ),
        (
            (NODE, "try:\n    f()\nexcept Exception:  # noqa: BLE001 - A peer's fault.\n    g()\n"),
            (NODE, "try:\n    f()\n# The loop outlives a handler.\nexcept Exception:\n    g()\n"),
            (NODE, "try:\n    f()\nexcept ValueError:\n    g()\n"),
        ),
    ),
    Check(
        find_unsafe_constructs,
        ((NODE, "import pickle\n"), (NODE, "from joblib import load\n"), (NODE, "eval(x)\n")),
        ((NODE, "model.eval()\nimport json\n"),),
    ),
    Check(
        find_unguarded_learning,
        (
            (NODE, "x = msgspec.convert(y, A)\n"),
            (NODE, "def f(raw):\n    return msgspec.json.decode(raw, type=A)\n"),
            (NODE, "def f():\n    return msgspec.msgpack.Decoder(A)\n"),
            ("sdk/quorate/a.py", "x = type_info(A)\n"),
        ),
        (
            (NODE, "_decoder = msgspec.msgpack.Decoder(A)\n"),
            (NODE, "def f(raw):\n    return msgspec.json.decode(raw)\n"),
            (NODE, "def f(raw):\n    return convert_plain(get_type_info(A), A)\n"),
        ),
    ),
    Check(
        find_upward_imports,
        ((NODE, "from cli import main\n"), (CORE, "import bench.load\n")),
        (("bench/load.py", "import cli\n"), ("tests/test_a.py", "import cli\n")),
    ),
    Check(
        find_asyncio,
        ((NODE, "import asyncio\n"), ("cli.py", "from asyncio import run\n")),
        ((NODE, "import trio\n"), ("sdk/quorate/client.py", "import asyncio\n")),
    ),
    Check(
        find_foreign_sdk_imports,
        (("sdk/quorate/client.py", "import trio\n"), ("sdk/quorate/a.py", "from node import x\n")),
        (("sdk/quorate/client.py", "import httpx\nimport time\nfrom quorate.chain import ids\n"),),
    ),
    Check(
        find_impurities,
        (
            (CORE, "import time\n"),
            ("consensus/a.py", "from random import choice\n"),
            ("aggregation/a.py", "x = np.random.rand(3)\n"),
            ("sdk/quorate/chain/a.py", "def f(p):\n    return open(p)\n"),
        ),
        ((NODE, "import time\n"), (CORE, "import hashlib\nx.time = 1\n")),
    ),
    Check(
        find_set_iterations,
        (
            (CORE, "for x in {1, 2}:\n    f(x)\n"),
            (CORE, "y = [x for x in set(z)]\n"),
            (CORE, "s = set()\ny = list(s)\n"),
            (CORE, "def f(s: frozenset[int]):\n    return tuple(s)\n"),
            (CORE, "class A:\n    s: set[int]\n\n    def f(self):\n        return [*self.s]\n"),
            (CORE, "y = b''.join(a.union(b))\n"),
            (CORE, "for x in set(a) - b:\n    f(x)\n"),
        ),
        (
            (CORE, "s = {1}\nfor x in sorted(s):\n    f(x)\n"),
            (CORE, "s = {1}\nok = all(x > 0 for x in s) and 1 in s\n"),
            (CORE, "for x in {1: 2}:\n    f(x)\n"),
            (NODE, "for x in {1, 2}:\n    f(x)\n"),
        ),
    ),
)


@cache
def read_sources() -> tuple[Source, ...]:
    """Read every text file of the repository that is not generated."""
    return tuple(
        Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(iterate_files(ROOT))
        if path.suffix in {".cfg", ".ini", ".lock", ".md", ".py", ".toml", ".yaml", ".yml"}
        or path.name in {"Makefile", "run"}
    )


def iterate_files(folder: Path) -> Iterator[Path]:
    """Walk over the files below a folder, leaving out what tools have generated."""
    for path in folder.iterdir():
        is_hidden = path.name.startswith(".") and path.name != ".ci"
        if path.is_dir() and not (
            is_hidden or path.name in GENERATED_FOLDERS or path.suffix == ".egg-info"
        ):
            yield from iterate_files(path)
        elif path.is_file() and not (is_hidden and path.suffix != ".yaml"):
            yield path


def name_of(check: Check) -> str:
    """The name of a check in pytest's report."""
    return check.find.__name__.removeprefix("find_")


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_tree_passes(check: Check) -> None:
    findings = [finding for source in read_sources() for finding in check.find(source)]
    if findings:
        pytest.fail("\n".join(findings), pytrace=False)


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_check_finds_what_offends(check: Check) -> None:
    for path, text in check.offending:
        assert list(check.find(Source(path, text))), f"nothing found in {text!r}"


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_check_lets_pass_what_is_right(check: Check) -> None:
    for path, text in check.innocent:
        assert not list(check.find(Source(path, text))), f"a false finding in {text!r}"


def test_tree_is_read() -> None:
    paths = {source.path for source in read_sources()}
    assert {"Makefile", ".ci/run", "pyproject.toml", "tests/test_tidy.py"} <= paths
    assert any(source.is_pure for source in read_sources())


# --- across files --------------------------------------------------------------------------------


def find_libp2p_files(sources: tuple[Source, ...]) -> list[str]:
    """The files outside the tests that import py-libp2p."""
    return [
        source.path
        for source in sources
        if source.is_product and "libp2p" in {name for name, _ in iterate_imports(source)}
    ]


def test_one_file_of_p2p_imports_libp2p() -> None:
    (path,) = find_libp2p_files(read_sources())
    assert path.startswith("p2p/")


def test_libp2p_files_are_found() -> None:
    first = Source("p2p/a.py", "from libp2p.host import x\n")
    second = Source("p2p/b.py", "if y:\n    import libp2p\n")
    assert find_libp2p_files((first, second, Source(NODE, "x = 1\n"))) == ["p2p/a.py", "p2p/b.py"]


def find_undeclared_imports(
    source: Source, declared: frozenset[str], providers: dict[str, list[str]]
) -> list[str]:
    """The third-party modules a file imports that no declared distribution provides."""
    own = {"aggregation", "bench", "cli", "consensus", "ledger", "node", "p2p", "quorate", "store"}
    return [
        source.at(line, f"{name} is not among the declared dependencies")
        for name, line in iterate_imports(source)
        if name not in own | sys.stdlib_module_names
        and not declared & {item.lower().replace("_", "-") for item in providers.get(name, [])}
    ]


def test_imports_are_declared() -> None:
    daemon, library = (
        tomllib.loads((ROOT / p).read_text()) for p in ("pyproject.toml", "sdk/pyproject.toml")
    )
    texts = [
        *daemon["project"]["dependencies"],
        *daemon["project"]["optional-dependencies"]["demo"],
        *library["project"]["dependencies"],
        # Types alone, imported under TYPE_CHECKING: the stubs of trio that come with libp2p.
        *(text for text in daemon["dependency-groups"]["dev"] if text.startswith("trio-typing")),
    ]
    declared = frozenset(Requirement(text).name.lower() for text in texts)
    providers = dict(importlib.metadata.packages_distributions())
    findings = [
        finding
        for source in read_sources()
        if source.is_product and not source.is_in("bench")
        for finding in find_undeclared_imports(source, declared, providers)
    ]
    assert findings == []


def test_undeclared_imports_are_found() -> None:
    source = Source(NODE, "import os\nimport trio\nimport psutil\nfrom store import database\n")
    providers = {"trio": ["trio"], "psutil": ["psutil"]}
    (finding,) = find_undeclared_imports(source, frozenset({"trio"}), providers)
    assert "psutil" in finding
