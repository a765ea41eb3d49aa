"""A search of Python source for what can turn data into running code: modules, functions, their other names.

It resolves what imports, assignments, `getattr`, `import_module` and `sys.modules` with a literal lead to,
and reports every mention, called or not. It finds what is written by mistake; who hides on purpose can, in
Python, always hide better.
"""

import ast
from collections.abc import Iterator

# Modules none of whose parts may be named: they unpickle, or run what they find in a file.
MODULES = (
    "pickle", "_pickle", "cPickle", "pickle5", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal",
    "shelve", "yaml", "ruamel", "copyreg", "code", "codeop", "runpy", "imp", "zipimport", "pty",
    "logging.config", "multiprocessing.connection", "multiprocessing.managers", "importlib.machinery",
    "torch.hub", "torch.package", "torch.serialization", "torch.utils.cpp_extension",
    "ray", "submitit",  # they pickle between processes and machines
)  # fmt: skip
# Functions and types.
MEMBERS = (
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__",
    "os.system", "os.popen", "os.execl", "os.execle", "os.execlp", "os.execlpe", "os.execv", "os.execve",
    "os.execvp", "os.execvpe", "os.spawnl", "os.spawnle", "os.spawnlp", "os.spawnlpe", "os.spawnv",
    "os.spawnve", "os.spawnvp", "os.spawnvpe", "os.posix_spawn", "os.posix_spawnp",
    "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
    "importlib.util.spec_from_file_location",
    "types.CodeType", "types.FunctionType",
    "ctypes.CDLL", "ctypes.PyDLL", "ctypes.cdll", "ctypes.pydll",
    "torch.load", "torch.save", "torch.jit.load", "torch.jit.save", "torch.export.load", "torch.export.save",
    "torch._C.import_ir_module", "torch._inductor.aoti_load_package", "torch.ops.load_library",
    "torch.classes.load_library", "torch.distributed.broadcast_object_list",
    "torch.distributed.gather_object", "torch.distributed.all_gather_object",
    "torch.distributed.scatter_object_list", "torch.distributed.send_object_list",
    "torch.distributed.recv_object_list",
    "numpy.lib.format.read_array", "numpy.lib.npyio.NpzFile", "numpy.ctypeslib.load_library",
    "pandas.read_pickle", "pandas.read_hdf", "pandas.eval",
)  # fmt: skip
ON_ANY_OBJECT = {"load_memmap", "read_pickle", "to_pickle", "load_library"}  # whatever they are methods of
BUILTINS = {"eval", "exec", "compile", "__import__"}
NUMPY_LOAD = "numpy.load"
NUMPY_LOAD_PLAIN = 2  # positional arguments before `allow_pickle`
IMPORT = "importlib.import_module"
CUSTOMARY = {"np": "numpy", "pd": "pandas", "th": "torch", "tnp": "numpy"}
SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "csh", "cmd", "cmd.exe", "powershell"}
WORDS = {"code", "imp", "pty"}  # modules by import alone: without one, a variable is called so
OWN = {"__package__", "__name__"}  # a module path that begins with these is one of ours


def offences(source: str) -> list[tuple[int, str]]:
    """Return line and dotted name of everything in `source` that may not be there, in order."""
    return sorted(set(_Search(ast.parse(source)).found()))


def forbidden(name: str) -> str | None:
    """Return what of the two tables `name` is, or lies in."""
    for module in MODULES:
        if name == module or name.startswith(f"{module}."):
            return module
    return next((member for member in MEMBERS if name == member or name.startswith(f"{member}.")), None)


def text_of(node: ast.AST | None) -> str | None:
    """Return the text that a literal is; None for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


class _Search:
    def __init__(self, tree: ast.Module) -> None:
        self.nodes = list(ast.walk(tree))
        self.calls = {id(node.func) for node in self.nodes if isinstance(node, ast.Call)}
        # What may stand in an expression ("t", "self.torch"), in any scope of the file, and what it may be.
        self.aliases: dict[str, set[str]] = {}
        self._follow_imports()
        while self._follow_assignments():
            pass

    def found(self) -> Iterator[tuple[int, str]]:
        for node in self.nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from self._imported(node)
            elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
                yield from self._named(node)
            elif isinstance(node, ast.Call):
                yield from self._called(node)

    # What names mean --------------------------------------------------------------------------------------

    def _follow_imports(self) -> None:
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    self._add(name, {alias.name if alias.asname else name})
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self._add(alias.asname or alias.name, {f"{_origin(node)}.{alias.name}"})

    def _follow_assignments(self) -> bool:
        """Take over what targets of assignments may be; return whether anything was new."""
        new = False
        for node in self.nodes:
            if isinstance(node, ast.Assign):
                pairs = [(target, node.value) for target in node.targets]
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                pairs = [(node.target, node.value)]
            else:
                continue
            for target, value in pairs:
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    each = list(zip(target.elts, value.elts, strict=False))
                else:
                    each = [(target, value)]
                for place, given in each:
                    if isinstance(place, ast.Name | ast.Attribute):
                        new |= self._add(ast.unparse(place), self.meanings(given))
        return new

    def _add(self, name: str, meanings: set[str]) -> bool:
        known = self.aliases.setdefault(name, set())
        new = {meaning for meaning in meanings if meaning != name and meaning.count(".") < 9} - known
        known |= new
        return bool(new)

    def meanings(self, node: ast.AST | None) -> set[str]:
        """Return the dotted names that an expression may stand for."""
        if isinstance(node, ast.Name):
            if node.id in BUILTINS:
                return {f"builtins.{node.id}"}
            own = set() if node.id in WORDS else {CUSTOMARY.get(node.id, node.id)}
            return self.aliases.get(node.id) or own
        if isinstance(node, ast.Attribute):
            parts = {f"{base}.{node.attr}" for base in self.meanings(node.value)}
            return parts | self.aliases.get(ast.unparse(node), set())
        if isinstance(node, ast.Subscript):  # sys.modules["x"], vars(x)["y"], x.__dict__["y"]
            key = text_of(node.slice)
            if key is None:
                return set()
            if "sys.modules" in self.meanings(node.value):
                return {key}
            inside = node.value
            if isinstance(inside, ast.Attribute) and inside.attr == "__dict__":
                return {f"{base}.{key}" for base in self.meanings(inside.value)}
            if isinstance(inside, ast.Call) and self.meanings(inside.func) == {"vars"} and inside.args:
                return {f"{base}.{key}" for base in self.meanings(inside.args[0])}
            return set()
        if isinstance(node, ast.Call):
            called = self.meanings(node.func)
            first = text_of(node.args[0]) if node.args else None
            if called & {IMPORT, "builtins.__import__"} and first is not None:
                return {first}
            if "getattr" in called and len(node.args) > 1 and (name := text_of(node.args[1])) is not None:
                return {f"{base}.{name}" for base in self.meanings(node.args[0])}
            return set()
        if isinstance(node, ast.IfExp):
            return self.meanings(node.body) | self.meanings(node.orelse)
        if isinstance(node, ast.BoolOp):
            return set().union(*map(self.meanings, node.values))
        return self.meanings(node.value) if isinstance(node, ast.NamedExpr) else set()

    # What is reported -------------------------------------------------------------------------------------

    def _imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[int, str]]:
        for alias in node.names:
            name = alias.name if isinstance(node, ast.Import) else f"{_origin(node)}.{alias.name}"
            if hit := forbidden(name):
                yield node.lineno, hit
            elif alias.name == "*" and any(m.startswith(name[:-1]) for m in (*MODULES, *MEMBERS, NUMPY_LOAD)):
                yield node.lineno, name

    def _named(self, node: ast.Name | ast.Attribute | ast.Subscript) -> Iterator[tuple[int, str]]:
        if not isinstance(node.ctx, ast.Load):
            return
        for name in self.meanings(node):
            if hit := forbidden(name):
                yield node.lineno, hit
            elif name in (NUMPY_LOAD, IMPORT) and id(node) not in self.calls:
                yield node.lineno, name  # handed on: with which arguments it is called cannot be seen
        if isinstance(node, ast.Attribute) and node.attr in ON_ANY_OBJECT:
            yield node.lineno, node.attr

    def _called(self, node: ast.Call) -> Iterator[tuple[int, str]]:
        for name in self.meanings(node):  # of import_module("x") and getattr(x, "y")
            if hit := forbidden(name):
                yield node.lineno, hit
            elif name == NUMPY_LOAD:
                yield node.lineno, name
        named = {word.arg: word.value for word in node.keywords if word.arg is not None}
        called = self.meanings(node.func)
        if "allow_pickle" in named and not is_false(named["allow_pickle"]):
            yield node.lineno, "allow_pickle"
        elif NUMPY_LOAD in called and (
            len(node.args) > NUMPY_LOAD_PLAIN
            or any(isinstance(argument, ast.Starred) for argument in node.args)
            or any(word.arg is None for word in node.keywords)
        ):
            yield node.lineno, NUMPY_LOAD
        if "shell" in named and not is_false(named["shell"]):
            yield node.lineno, "shell"
        if any(name.startswith("subprocess.") for name in called) and _starts_shell(node):
            yield node.lineno, "shell"
        if IMPORT in called and not _is_known(node.args[0] if node.args else named.get("name")):
            yield node.lineno, IMPORT


def _origin(node: ast.ImportFrom) -> str:
    """Return the module of `from MODULE import`; one of ours begins with dots."""
    return "." * node.level + (node.module or "")


def _starts_shell(node: ast.Call) -> bool:
    words = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "args"), None)
    first = words.elts[0] if isinstance(words, ast.List | ast.Tuple) and words.elts else words
    program = text_of(first)
    return program is not None and program.rpartition("/")[2].partition(" ")[0] in SHELLS


def _is_known(path: ast.expr | None) -> bool:
    """Whether it can be seen which package `import_module(path)` imports from, and that it is harmless."""
    if text_of(path) is not None:
        return True  # and was looked up already
    if not isinstance(path, ast.JoinedStr):
        return False
    first = path.values[0]
    if isinstance(first, ast.FormattedValue):
        return isinstance(first.value, ast.Name) and first.value.id in OWN
    begin = text_of(first) or ""  # "mujoco." of f"mujoco.{backend}"; "torch." might become torch.hub
    return "." in begin and not forbidden(begin) and not any(module.startswith(begin) for module in MODULES)
