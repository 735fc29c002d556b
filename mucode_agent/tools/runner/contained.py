"""Whether a suite of tests can reach nothing beyond its own values, so that it may share a process with other suites.

A list of what is allowed, never of what is not: syntax, names, attributes and modules by which no code can change or
see an object that another suite uses. What is not on it is no mistake: its suite gets a judge of its own.
"""

import ast
import builtins
import typing
from collections.abc import Iterable


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BASES: tuple[type[ast.AST], ...] = (ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop)
_SYNTAX = frozenset[type[ast.AST]](
    {
        *(ast.Module, ast.FunctionDef, ast.Lambda, ast.arguments, ast.arg, ast.keyword, ast.Return, ast.Expr, ast.Pass),
        *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr, ast.For, ast.While, ast.Break, ast.Continue, ast.If),
        *(ast.Assert, ast.Try, ast.ExceptHandler, ast.Raise, ast.Import, ast.ImportFrom, ast.alias, ast.IfExp),
        *(ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Constant, ast.JoinedStr, ast.FormattedValue),
        *(ast.Dict, ast.Set, ast.List, ast.Tuple, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
        *(ast.comprehension, ast.Attribute, ast.Subscript, ast.Slice, ast.Starred, ast.Name),
        *(kind for base in _BASES for kind in base.__subclasses__()),
    }
)
_BUILTINS = _words("""
abs all any bin bool bytearray bytes callable chr complex dict divmod enumerate filter float frozenset hash hex int
isinstance iter len list map max min next oct ord pow print range repr reversed round set slice sorted str sum tuple zip
""")
_ATTRIBUTES = _words("""
add append args as_integer_ratio bit_length capitalize casefold clear copy count decode difference discard encode
endswith extend find fromkeys get hex imag index insert intersection is_integer isalnum isalpha isdigit isdisjoint
islower isspace issubset issuperset isupper items join keys ljust lower lstrip pop popitem real remove replace reverse
rfind rjust rsplit rstrip setdefault sort split splitlines startswith strip swapcase title update upper values zfill
""")
_MODULES = {
    "math": _words("""
acos asin atan atan2 ceil comb cos degrees dist e exp fabs factorial floor fmod fsum gcd hypot inf isclose isfinite
isinf isnan isqrt lcm log log10 log2 nan perm pi pow prod radians sin sqrt tan tau trunc
"""),
    "random": _words("Random choice choices randint random randrange sample seed shuffle uniform"),
    "string": _words("ascii_letters ascii_lowercase ascii_uppercase digits hexdigits punctuation"),
    "copy": _words("copy deepcopy"),
    "typing": _words("Any Callable Dict FrozenSet Iterable Iterator List Mapping Optional Sequence Set Tuple Union"),
}
_IMPORTED = frozenset().union(*_MODULES.values())


def contained(nodes: Iterable[ast.AST], modules: frozenset[str]) -> bool:
    """Of every node of the code, and of the modules that it uses without an import."""
    return modules <= _MODULES.keys() and all(map(_allowed, nodes))


def _allowed(node: ast.AST) -> bool:
    if type(node) not in _SYNTAX:
        return False
    if isinstance(node, ast.Name):
        return _name(node.id)
    if isinstance(node, ast.Attribute):
        return isinstance(node.ctx, ast.Load) and (node.attr in _ATTRIBUTES or node.attr in _IMPORTED)
    if isinstance(node, ast.Import):
        return all(alias.name in _MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        names = _MODULES.get(node.module or "", frozenset())
        star = node.module == "typing" and [alias.name for alias in node.names] == ["*"]
        return node.level == 0 and (star or all(alias.name in names for alias in node.names))
    return True


def _name(name: str) -> bool:
    """A name may be a builtin of the list, what the suite itself binds or imports, or the program's."""
    if name.startswith("__") or name in _BUILTINS:
        return not name.startswith("__")
    known = getattr(builtins, name, None)
    if known is not None:
        return isinstance(known, type) and issubclass(known, BaseException)
    return not hasattr(typing, name) or name in _IMPORTED  # `from typing import *` brings what evaluates text
