"""Parsing of text that may not be Python, from any thread."""

import ast
import threading
import warnings

_TRIES = 8
# Reentrant: a finalizer that runs in the middle of a parse may parse too.
_one_at_a_time = threading.RLock()


def parse(source: str) -> ast.Module:
    """The tree of a source text.

    CPython up to 3.12 counts the depth of the tree for all threads together, so two threads that parse at once can both
    fail with SystemError (python/cpython#106905). Here one thread parses at a time, and a parse that other code
    disturbed is repeated.

    Raises:
        SyntaxError: for any text that has no tree, also for a null byte and for nesting that is too deep.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(_TRIES):
            try:
                return ast.parse(source)
            except SystemError:
                continue
            except (ValueError, RecursionError, MemoryError) as error:
                raise SyntaxError(str(error) or type(error).__name__) from None
        raise SyntaxError("the parser was disturbed by other threads")


def parse_expression(source: str) -> ast.expr:
    """The tree of a source text that is one expression. Raises SyntaxError if it is not."""
    match parse(source.strip()).body:
        case [ast.Expr(value=value)]:
            return value
    raise SyntaxError("not one expression")
