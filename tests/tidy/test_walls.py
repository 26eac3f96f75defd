"""Size is a wall: files of 800 lines, functions of 70, lines of 100; every file says what it is."""

from __future__ import annotations

import ast

import tree

FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
TEXT_SUFFIXES = {".py", ".cc", ".c", ".h", ".md", ".txt", ".cmake", ".yaml", ".sh"}


def test_no_file_is_longer_than_the_wall() -> None:
    long = [
        f"{tree.name(path)}: {count} lines"
        for path in tree.files()
        if path.suffix in TEXT_SUFFIXES and not tree.inside(path, "tests/data")
        if (count := len(tree.read(path).splitlines())) > FILE_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_no_line_is_wider_than_the_wall() -> None:
    wide = [
        f"{tree.name(path)}:{number}: {len(line)} columns"
        for path in tree.cpp_files() + tree.python_files()
        for number, line in enumerate(tree.read(path).splitlines(), 1)
        if len(line) > COLUMNS_MAX
    ]
    assert not wide, f"{len(wide)} lines:\n" + "\n".join(wide)


def test_no_cpp_function_is_longer_than_the_wall() -> None:
    long = [
        f"{tree.name(path)}:{function.line}: {function.name} has {function.line_count} lines"
        for path in tree.cpp_files()
        for function in tree.functions(tree.read(path))
        if function.line_count > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_no_python_function_is_longer_than_the_wall() -> None:
    long = [
        f"{tree.name(path)}:{node.lineno}: {node.name} has {count} lines"
        for path in tree.python_files()
        for node in ast.walk(ast.parse(tree.read(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (count := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_every_file_opens_with_a_paragraph() -> None:
    silent = []
    for path in tree.python_files():
        text = tree.read(path)
        if text.strip() and not ast.get_docstring(ast.parse(text)):
            silent.append(tree.name(path))
    silent += [
        tree.name(path)
        for path in tree.cpp_files()
        if not tree.read(path).lstrip().startswith(("/*", "//"))
    ]
    assert not silent, "these open without a word on what they are:\n" + "\n".join(silent)


CPP = """
#include <x>
namespace a {
static const int table[] = {1, 2};
class C {
  public:
    explicit C(int x) noexcept : a_{x}, b_(x) {
        if (x) { f("}"); }
    }
    bool operator==(const C &other) const { return true; }  // {
};
struct Pair { int a; int b = 1'000; };
auto twice(int x) -> int
{
    auto inner = [&](int y) { return y; };
    return inner(x); /* } */
}
constexpr Pair kPair = make(1);
enum class E : int { one, two };
extern "C" int tent_x(const char *s) { return s['}'] == '{'; }
}
"""


def test_the_scanner_finds_functions_and_nothing_else() -> None:
    found = [(f.name, f.line, f.line_count) for f in tree.functions(CPP)]
    assert found == [("C", 7, 3), ("operator==", 10, 1), ("twice", 13, 5), ("tent_x", 20, 1)]
