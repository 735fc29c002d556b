"""Lines of the package by its parts: code, docstrings, and blank lines with comments.

python benchmarks/size.py
python benchmarks/size.py OTHER_CHECKOUT
"""

import ast
import sys
from collections import Counter
from pathlib import Path


def counted(source: str) -> Counter[str]:
    """Lines by kind. A docstring is any statement that is only a string."""
    lines = source.splitlines()
    strings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            strings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    empty = [i for i, line in enumerate(lines, 1) if i not in strings and line.strip()[:1] in ("", "#")]
    return Counter(
        all=len(lines), code=len(lines) - len(strings) - len(empty), docstrings=len(strings), blank=len(empty)
    )


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "mucode_agent"
    parts: dict[str, Counter[str]] = {}
    for file in sorted(root.rglob("*.py")):
        part = file.relative_to(root).parts[:-1]
        parts.setdefault("/".join(part) or "(modules)", Counter()).update(counted(file.read_text()))
    parts["in all"] = sum(parts.values(), Counter[str]())
    for name, count in parts.items():
        print(f"{name:14}", *(f"{count[kind]:7,} {kind}" for kind in ("all", "code", "docstrings", "blank")))


if __name__ == "__main__":
    main()
