"""Text that every Python installation has: the documentation of its own standard library.

The sources are read, never imported: docstrings and comment blocks with :mod:`ast` and the lines of the file,
the language reference from ``pydoc_data``. Only modules that are compiled into the interpreter are asked for
their ``__doc__``. Some modules are held out, so that a model trained on the rest can be measured on them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from matryoshka2d.errors import UserError

SHORTEST, LONGEST = 4, 60
"""The fewest and the most words of a sentence that is kept."""

FEWEST_SENTENCES = 1000
"""Below this the installation has no documentation to speak of."""

LANGUAGE_REFERENCE = "pydoc_data"
"""The module that holds the language reference; its sentences are always in the training part, for the
reference explains the library's terms and would otherwise be most of the held-out part."""

# Tests and bundled copies of other projects are not documentation; teaching programs and demos are.
_EXCLUDED_FOLDERS = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "_bundled", "_vendor"}
)
# Where the compiled part of a module that people import under another name lives.
_PUBLIC_NAMES = {
    "posix": "os",
    "nt": "os",
    "_collections": "collections",
    "_functools": "functools",
    "_io": "io",
    "_operator": "operator",
    "_signal": "signal",
}
# An example for authors of extension modules, and a poem.
_EXCLUDED_MODULES = frozenset({"xxsubtype", "this", "antigravity", LANGUAGE_REFERENCE})


@dataclass(frozen=True)
class Passage:
    """The documentation of one module, class or function.

    Parameters
    ----------
    title : str
        Where it stands, such as ``"tempfile.TemporaryDirectory"``.
    kind : str
        ``"module"``, ``"class"`` or ``"function"``.
    sentences : tuple of str
        Its sentences, cleaned as :func:`sentences_of` does, the summary first.

    Examples
    --------
    >>> Passage("heapq.heappop", "function", ("Pop the smallest item.", "Keep the heap order.")).text
    'Pop the smallest item. Keep the heap order.'
    """

    title: str
    kind: str
    sentences: tuple[str, ...]

    @property
    def module(self) -> str:
        """The top-level module, by which passages are held out."""
        return self.title.partition(".")[0]

    @property
    def text(self) -> str:
        """The sentences in one line."""
        return " ".join(self.sentences)


@dataclass(frozen=True)
class Corpus:
    """Sentences and passages of the standard library's documentation.

    Parameters
    ----------
    train : tuple of str
        Distinct sentences of the training modules.
    held_out : tuple of str
        Distinct sentences of the held-out modules; none is in ``train``, whatever its case and spaces.
    held_out_modules : frozenset of str
        The top-level modules that are held out.
    passages : tuple of Passage
        Every documented module, class and function of both parts, in the order of their titles.
    source : str
        What was read, in words, for a report.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    held_out_modules: frozenset[str]
    passages: tuple[Passage, ...]
    source: str


def python_documentation(stdlib: str | Path | None = None, held_out_share: float = 0.1) -> Corpus:
    """Read the documentation that comes with this Python.

    Nothing is downloaded and the answer depends on nothing but the Python version and its build.

    Parameters
    ----------
    stdlib : str or Path, optional
        The folder of the standard library. Default: that of the running Python. Give another one to read the
        documentation of another installation.
    held_out_share : float, default 0.1
        The share of top-level modules to hold out, chosen by a stable hash of the name. Raise it for a larger
        test part, at the price of training text.

    Returns
    -------
    Corpus
        About 18,000 sentences with Python 3.11.

    Raises
    ------
    UserError
        When the share is not between 0 and 1, or when the installation has no sources to read.

    Examples
    --------
    >>> corpus = python_documentation()
    >>> set(corpus.train) & set(corpus.held_out)
    set()
    """
    if not 0 < held_out_share < 1:
        raise UserError(
            f"The held-out share is {held_out_share}; expected a number between 0 and 1, such as 0.1."
        )
    root = Path(stdlib if stdlib is not None else sysconfig.get_path("stdlib"))
    texts = _library_texts(root)
    modules = {text.module for text in texts}
    held_out_modules = frozenset(module for module in modules if is_held_out(module, held_out_share))
    cleaned = [(text, tuple(sentences_of(text.text))) for text in texts]
    held_out = _distinct(line for text, lines in cleaned if text.module in held_out_modules for line in lines)
    train = _distinct(
        (line for text, lines in cleaned if text.module not in held_out_modules for line in lines),
        without=held_out,
    )
    if len(train) + len(held_out) < FEWEST_SENTENCES:
        raise UserError(
            f"Found only {len(train) + len(held_out)} sentences of documentation under '{root}'; expected "
            "the .py sources of the standard library. Use a Python installation that is not zipped or "
            "stripped, or give a text file of your own."
        )
    return Corpus(
        train=tuple(train.values()),
        held_out=tuple(held_out.values()),
        held_out_modules=held_out_modules,
        passages=tuple(_passages(cleaned)),
        source=f"documentation of the standard library of Python {sys.version.split()[0]}",
    )


def is_held_out(module: str, share: float = 0.1) -> bool:
    """Whether a top-level module belongs to the held-out part: a stable hash of its name decides.

    Public modules and the private ones that implement them (``decimal`` and ``_pydecimal``) fall together.

    >>> is_held_out("json"), is_held_out("shutil")
    (True, False)
    >>> is_held_out("_io") == is_held_out("io") == is_held_out("_pyio")
    True
    """
    if module == LANGUAGE_REFERENCE:
        return False
    public = module.lstrip("_").removeprefix("py").lstrip("_") if module.startswith("_") else module
    return int.from_bytes(hashlib.sha256(public.encode()).digest()[:8], "big") < share * 2**64


# ------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class _Text:
    """A docstring, a comment block or a chapter as it stands in its source; comments have no title."""

    module: str
    title: str
    kind: str
    text: str


def _library_texts(root: Path) -> list[_Text]:
    texts: list[_Text] = []
    for path in _sources(root):
        texts.extend(_source_texts(path, path.relative_to(root)))
    texts.extend(_language_reference(root))
    for name in sorted(set(sys.builtin_module_names) - _EXCLUDED_MODULES):
        texts.extend(_compiled_texts(name))
    return texts


def _sources(root: Path) -> list[Path]:
    """The library's own source files, in a fixed order."""
    return sorted(path for path in root.rglob("*.py") if _is_documentation(path.relative_to(root)))


def _is_documentation(path: Path) -> bool:
    top = path.parts[0].removesuffix(".py")
    # Distributions put files of their own beside the library; the interpreter knows the library's names.
    if top not in sys.stdlib_module_names or top in _EXCLUDED_MODULES:
        return False
    return _EXCLUDED_FOLDERS.isdisjoint(path.parts)


def _source_texts(path: Path, relative: Path) -> Iterator[_Text]:
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, UnicodeDecodeError, SyntaxError):  # a template or an old encoding: the rest is plenty
        return
    name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    top = relative.parts[0].removesuffix(".py")
    for title, kind, docstring in _docstrings(tree, name, "module"):
        yield _Text(top, title, kind, docstring)
    for block in _comment_blocks(source):
        yield _Text(top, "", "comment", block)


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, title: str, kind: str
) -> Iterator[tuple[str, str, str]]:
    docstring = ast.get_docstring(node)
    if docstring:
        yield title, kind, docstring
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _docstrings(child, f"{title}.{child.name}", "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{title}.{child.name}", "function")


def _comment_blocks(source: str) -> Iterator[str]:
    """Comments of two lines or more, each as one text; a single line is seldom a sentence."""
    block: list[str] = []
    for line in [*source.splitlines(), ""]:
        stripped = line.strip()
        if stripped.startswith("#") and not stripped.startswith("#!"):
            block.append(stripped.lstrip("#").removeprefix(" "))
            continue
        if len(block) > 1:
            yield "\n".join(block)
        block = []


def _language_reference(root: Path) -> Iterator[_Text]:
    """The chapters that ``help("with")`` prints, read from a dictionary of literals."""
    try:
        tree = ast.parse((root / LANGUAGE_REFERENCE / "topics.py").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError):  # some distributions leave it out
        return
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for chapter in node.value.values:
                text = ast.literal_eval(chapter)
                yield _Text(LANGUAGE_REFERENCE, "", "chapter", inspect.cleandoc(text))


def _compiled_texts(name: str) -> Iterator[_Text]:
    """Docstrings of a module that is compiled into the interpreter: its import runs no other code."""
    module = importlib.import_module(name)
    public = _PUBLIC_NAMES.get(name, name)
    members = vars(module)
    documented = [(public, "module", module.__doc__)]
    for attribute in sorted(members):
        value = members[attribute]
        if isinstance(value, type) or inspect.isroutine(value):
            documented.extend(_compiled_docstrings(f"{public}.{attribute}", value))
    for title, kind, docstring in documented:
        if isinstance(docstring, str):
            yield _Text(public, title, kind, inspect.cleandoc(docstring))


def _compiled_docstrings(title: str, value: object) -> Iterator[tuple[str, str, str | None]]:
    if not isinstance(value, type):
        yield title, "function", value.__doc__
        return
    yield title, "class", value.__doc__
    for attribute, member in sorted(vars(value).items()):
        if attribute != "__doc__":
            yield f"{title}.{attribute}", "function", getattr(member, "__doc__", None)


def _passages(cleaned: Iterable[tuple[_Text, tuple[str, ...]]]) -> list[Passage]:
    """One passage a title: a property and its setter share theirs, the first one documents both."""
    passages: dict[str, Passage] = {}
    for text, lines in cleaned:
        if text.title and lines:
            passages.setdefault(text.title, Passage(text.title, text.kind, lines))
    return [passages[title] for title in sorted(passages)]


def _distinct(lines: Iterable[str], without: Iterable[str] = ()) -> dict[str, str]:
    """The lines by their folded form, the first of each, in order."""
    left_out = set(without)
    distinct: dict[str, str] = {}
    for line in lines:
        key = fold(line)
        if key not in left_out:
            distinct.setdefault(key, line)
    return distinct


def fold(sentence: str) -> str:
    """A sentence without its case and its spacing: what counts as "the same sentence".

    >>> fold("  Return  the Path. ")
    'return the path.'
    """
    return " ".join(sentence.casefold().split())


# ----------------------------------------------------------------------------------------------- cleaning

_BULLET = re.compile(r"^\s*(?:[-*+o•]|\(?\d+[.)]|\[\d+\]|:\w[\w ]*:|@\w+:?|[a-z]\)|[\w.]+ --?|[\w.]+:)\s+")
_HEADING_RULE = re.compile(r"^\s*[-=~^*_#+.\"|\s]{3,}$")
_LABEL = re.compile(r"^[\w ]{1,24}:$")
_CREDITS = re.compile(
    r"copyright|\bauthors?\b|written by|licen[sc]ed?\b|warrant(y|ies)|liab(le|ility)|@\w+\.\w", re.I
)
# A name and a gap, such as "maxsize   the largest size", is a row of a table or of a glossary.
_COLUMNS = re.compile(r"\S\s{3,}\S")
_SIGNATURE = re.compile(
    r"^\s*(?:class |def )?[\w.]+\([^()]*(?:\([^()]*\)[^()]*)*\)\s*(?:->(?!.*\. ).*|=.*|:)?$"
)
_SIGNATURE_START = re.compile(r"^[\w.]+\([^()]*\)\s*(?:->\s*[\w.\[\], ]+?\s*)?(?:--+|:|[.])\s+")
_DASH_START = re.compile(r"^(?:[\w.]+ )?--+\s+")
_ROLE = re.compile(r":(?:\w+:)?\w+:`[~!]?([^`]+)`")
_LITERAL = re.compile(r"``([^`]+)``|`([^`'\s]+)[`']|\*\*([^*\s][^*]*)\*\*|(?<![\w*])\*([\w.\-]+)\*(?![\w*])")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z_])|(?<=[.!?])\s+(?=[a-z_]+\(\))")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|Mr|Dr|St|fig|sec|no|al|[A-Z])\.)$", re.I)
# Sentences that hold code, links or programmers' notes to themselves are no prose.
_CODE = re.compile(
    r"[{}\\^~]|[^\s\w.]{4,}|=|->|<-|::|\$\w|%[sdrx(]|<[/\w]+>|\|\||&&|\w\[\w*\]|\bself\b\.|__file__|0x[0-9a-f]"
    r"|\bXXX\b|\bTODO\b|\bFIXME\b|@\w+\.|\bhttps?:|\bwww\.|\bSF bug\b|_\w*\([^)]+,",
    re.I,
)
_STATEMENT = re.compile(
    r"^(?:import \w|from \w+ import|def \w+\(|class \w+[(:]|print\(|return [\w.]+$|assert \w)"
)
_WORD = re.compile(r"[A-Za-z][a-z]*(?:['’-][a-z]+)*[,;:.!?]?")
_FUNCTION_WORDS = frozenset(
    (  # noqa: SIM905 - a paragraph of words is easier to read than a list of them
        "a an the of to in on at by for from with without is are was were be been has have had do does not "
        "no and or but if when while that which this these those it its as into than then will would can "
        "could may might must should shall all any each there you we they only such so because since after "
        "before until between"
    ).split()
)


def sentences_of(text: str) -> list[str]:
    """Split documentation into its sentences of natural language.

    Examples at a prompt, tables, signatures, headings and lines of code are left out, as are sentences of
    fewer than four or more than sixty words; markup and line ends are folded away.

    Parameters
    ----------
    text : str
        A docstring, a comment without its marks, or a chapter, with its line ends.

    Returns
    -------
    list of str

    Examples
    --------
    >>> sentences_of("dumps(obj) -> str\\n\\nReturn ``obj`` as a string of JSON.\\n\\n>>> dumps(1)\\n'1'")
    ['Return obj as a string of JSON.']
    """
    return [
        sentence
        for paragraph in _paragraphs(text)
        for sentence in _split(_plain(paragraph))
        if _is_sentence(sentence)
    ]


def _paragraphs(text: str) -> Iterator[str]:
    """Runs of prose lines: an empty line, a bullet or a line that is no prose ends one."""
    lines: list[str] = []
    in_example = False
    for line in [*text.expandtabs().splitlines(), ""]:
        in_example = bool(line.strip()) and (
            in_example or line.lstrip().startswith((">>>", "... ", "$ ", "% "))
        )
        bullet = _BULLET.match(line)
        if lines and (bullet or in_example or not _is_prose_line(line)):
            yield " ".join(lines)
            lines = []
        if not in_example and _is_prose_line(line):
            lines.append(line[bullet.end() :] if bullet else line)
    if lines:
        yield " ".join(lines)


def _is_prose_line(line: str) -> bool:
    stripped = line.strip()
    if not stripped or _HEADING_RULE.match(line) or _SIGNATURE.match(line) or _STATEMENT.match(stripped):
        return False
    if _LABEL.match(stripped) or _CREDITS.search(stripped):
        return False
    return not _COLUMNS.search(stripped) and not stripped.startswith((".. ", "|", "+-", "#", "<"))


def _plain(paragraph: str) -> str:
    """One line without markup and without the name or the call that some docstrings begin with."""
    line = _ROLE.sub(r"\1", paragraph)
    line = _LITERAL.sub(lambda match: next(group for group in match.groups() if group), line)
    line = " ".join(line.replace("`", "").split())
    return _DASH_START.sub("", _SIGNATURE_START.sub("", line))


def _split(paragraph: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        if not _ABBREVIATION.search(paragraph[start : end.start()]):
            yield paragraph[start : end.end()].strip()
            start = end.end()
    yield paragraph[start:].strip()


def _is_sentence(sentence: str) -> bool:
    words = sentence.split()
    if not SHORTEST <= len(words) <= LONGEST or _CODE.search(sentence):
        return False
    plain = sum(bool(_WORD.fullmatch(word.strip("\"'()[]"))) for word in words)
    function_words = sum(word.strip("\"'(),.;:").lower() in _FUNCTION_WORDS for word in words)
    return (
        plain >= 0.7 * len(words) and function_words >= 1 and sentence[0].isascii() and _is_closed(sentence)
    )


def _is_closed(sentence: str) -> bool:
    """Whether nothing was cut off at the start, at the end or between brackets."""
    if not (sentence[0].isupper() or sentence[0] in "\"'" or sentence.endswith((".", "!", "?", ")"))):
        return False
    last = sentence.rsplit(maxsplit=1)[-1].lower().strip("\"'")
    return (
        sentence.count("(") == sentence.count(")")
        and last not in _FUNCTION_WORDS
        and not last.endswith((",", ";", "(", ":", "-"))
    )
