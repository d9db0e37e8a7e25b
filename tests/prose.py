"""Measures how plain the project's English is: `python -m tests.prose [--list]`.

It counts docstrings that name a result instead of an action, and words of the project's former private dialect per
1,000 words of documentation and of docstrings. `--list` prints each place. It also finds lines of Markdown that are
too long to read in an editor or in a diff.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
NOMINAL = re.compile(r"(What|Who|Whom|Whose|Whether|Of|How|Where|When|Likewise)\b")
# Words and phrases that a reader of English as a second language has to guess, with what to write instead.
DIALECT = {
    r"amid(st)?": "during",
    r"anew": "again",
    r"at the outset": "at the start",
    r"(?<!has )begun": "started",
    r"beside": "next to, besides",
    r"blott?(ed|ing)?": "redact",
    r"for ever": "forever",
    r"(is|are|was|were) no (?!(longer|way|more|other|different|such|lower|higher|later)\b)[a-z]+": "is not a",
    r"likewise": "repeat the noun",
    r"mend(s|ed|ing)?": "fix",
    r"nought": "nothing",
    r"put aside": "deferred",
    r"weather": "transient errors",
    r"who(so)?ever": "name the subject",
    r"who (was|is|had|writes|asks|knows|waits)": "which, that",
    r"nobody (else|is|has|was|reads|writes)": "no process",
    r"unfit": "invalid",
}
_DIALECT = re.compile(rf"\b({'|'.join(DIALECT)})\b", re.IGNORECASE)
_GENERATED = {".venv", ".git", ".pytest_cache", ".hypothesis", "node_modules", "out", "dist", "build"}
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
LINE_COLUMNS = 100
"Longest line of Markdown, except in tables, in code blocks and for a line that is only a link or an image."
ANY_LINE_COLUMNS = 300
"Longest line of Markdown without exception."
_ONLY_A_LINK = re.compile(r"\s*(?:[-*] )?!?\[[^\]]*\]\([^)]*\)[.,;]?|\s*<?https?://\S+")
_CODE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|<!--.*?-->", re.DOTALL)


class Text(NamedTuple):
    """A piece of prose and where it starts."""

    file: str
    line: int
    text: str
    is_docstring: bool


def _files(pattern: str) -> list[Path]:
    """Return the files of the project that match, without installed packages and output."""
    found = (path.relative_to(ROOT) for path in ROOT.glob(pattern))
    return sorted(ROOT / path for path in found if not _GENERATED & set(path.parts))


def markdown() -> Iterator[tuple[str, str]]:
    """Yield the name and the full text of each Markdown file."""
    for path in _files("**/*.md"):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def pages() -> Iterator[Text]:
    """Yield the Markdown pages without code, links and generated blocks."""
    for name, full in markdown():
        if "licences" not in name:
            text = _CODE.sub(lambda found: "\n" * found[0].count("\n"), full)
            yield Text(name, 1, text, is_docstring=False)


def long_lines(text: str) -> list[int]:
    """Return the numbers of the lines of a Markdown text that are too long."""
    found = []
    in_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        is_fence = line.lstrip().startswith("```")
        in_code ^= is_fence
        is_exempt = in_code or is_fence or line.lstrip().startswith("|") or _ONLY_A_LINK.fullmatch(line)
        if len(line) > (ANY_LINE_COLUMNS if is_exempt else LINE_COLUMNS):
            found.append(number)
    return found


def docstrings(*folders: str) -> Iterator[Text]:
    """Yield the docstrings of modules, classes and functions, attribute docstrings included."""
    for path in (path for folder in folders for path in _files(f"{folder}/**/*.py")):
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield Text(name, node.lineno, node.value.value, is_docstring=True)


def nominal(texts: list[Text]) -> list[Text]:
    """Return the docstrings that begin with a question word or a preposition."""
    return [text for text in texts if text.is_docstring and NOMINAL.match(text.text)]


def dialect(texts: list[Text]) -> list[tuple[Text, int, str]]:
    """Return each word of the former dialect with its text and line."""
    return [
        (text, text.line + text.text.count("\n", 0, found.start()), found[0])
        for text in texts
        for found in _DIALECT.finditer(text.text)
    ]


def words(texts: list[Text]) -> int:
    """Return the number of words."""
    return sum(len(_WORD.findall(text.text)) for text in texts)


def main() -> None:
    """Print the measures."""
    listed = "--list" in sys.argv
    for title, texts in (("documentation", list(pages())), ("docstrings", list(docstrings("connector", "tests")))):
        found = dialect(texts)
        rate = 1000 * len(found) / max(1, words(texts))
        sys.stdout.write(
            f"{title}: {len(texts)} texts, {words(texts)} words, {len(found)} dialect words, {rate:.1f} per 1,000\n"
        )
        starts = nominal(texts)
        if texts and texts[0].is_docstring:
            sys.stdout.write(f"  begin with What, Who, Whether, Of, How …: {len(starts)}\n")
        if listed:
            for text, line, word in found:
                sys.stdout.write(f"  {text.file}:{line}: {word}\n")
            for text in starts:
                sys.stdout.write(f"  {text.file}:{text.line}: {text.text.splitlines()[0]}\n")


if __name__ == "__main__":
    main()
