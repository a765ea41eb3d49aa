"""No file of the package may load code from data: a search of the source, token by token."""

import io
import tokenize
from pathlib import Path

import pytest

import rlsuite

PACKAGE = Path(rlsuite.__file__).parent
FORBIDDEN_NAMES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml", "allow_pickle"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
}  # as plain calls: `module.eval()` and `re.compile()` are fine
FORBIDDEN_ATTRIBUTES = {
    ("torch", "load"),
    ("torch", "save"),
    ("jit", "load"),
    ("os", "system"),
    ("os", "popen"),
    ("pandas", "read_pickle"),
}
TEXT_TOKENS = {tokenize.NAME, tokenize.OP}


def offences(source: str) -> list[str]:
    """Return what is forbidden in `source`, comments and docstrings aside."""
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type in TEXT_TOKENS]
    found = []
    for i, token in enumerate(tokens):
        before = tokens[i - 1].string if i else ""
        after = tokens[i + 1].string if i + 1 < len(tokens) else ""
        if token.string in FORBIDDEN_NAMES and before != ".":
            found.append(f"line {token.start[0]}: {token.string}")
        if token.string == "shell" and after == "=":
            found.append(f"line {token.start[0]}: shell=")
        if token.string in FORBIDDEN_CALLS and before not in (".", "def") and after == "(":
            found.append(f"line {token.start[0]}: {token.string}(")
        if before == "." and i >= 2 and (tokens[i - 2].string, token.string) in FORBIDDEN_ATTRIBUTES:
            # `safetensors.torch.load` reads a format without code.
            if i >= 4 and tokens[i - 4].string == "safetensors":
                continue
            found.append(f"line {token.start[0]}: {tokens[i - 2].string}.{token.string}")
    return found


def test_no_file_of_the_package_can_load_code() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    found = {str(f.relative_to(PACKAGE)): offences(f.read_text("utf-8")) for f in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import shelve as s",
        "torch.load(path)",
        "torch . load(path)",
        "torch.save(x, path)",
        "x = eval(text)",
        "exec(code)",
        "torch.jit.load(path)",
        "import yaml",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "__import__(name)",
    ],
)
def test_the_search_finds_what_it_should(line: str) -> None:
    assert offences(line)


@pytest.mark.parametrize(
    "line",
    [
        "actor.eval()",
        "re.compile(x)",
        "safetensors.torch.load(data)",
        "# pickle",
        '"""no pickle"""',
        "def eval(x): 1",
    ],
)
def test_the_search_lets_harmless_code_pass(line: str) -> None:
    assert not offences(line)
