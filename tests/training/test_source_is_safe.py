"""No file of the package may load code from data: every source file is read for what could."""

from pathlib import Path

import pytest
from training.unsafe_code import offences

import rlsuite

PACKAGE = Path(rlsuite.__file__).parent
C_LIBRARY = "CDLL(None): the C library that this process has loaded already, no file"
SENT_BY_US = "pickles of our own, between a user's own processes: SECURITY.md, What is trusted"
NAMED_BY_THE_USER = "modules that the user installed or named with --import: SECURITY.md, What is trusted"
NAMED_HERE = "modules whose names stand in the same file"
# What may be there all the same, and why. An entry that nothing needs any more fails, too.
ALLOWED = {
    ("agents/compiled.py", "types.FunctionType"): "copies a function of the same file",
    ("benchmarks/evidence.py", "ctypes.CDLL"): C_LIBRARY,
    ("benchmarks/soak.py", "ctypes.CDLL"): C_LIBRARY,
    (
        "envs/engines/simulations.py",
        "ctypes.CDLL",
    ): "calls MuJoCo's own library, where importing mujoco found it",
    ("launch/task.py", "ctypes.CDLL"): C_LIBRARY,
    ("command/arguments.py", "importlib.import_module"): NAMED_BY_THE_USER,
    ("extensions.py", "importlib.import_module"): NAMED_BY_THE_USER,
    ("targets.py", "importlib.import_module"): NAMED_BY_THE_USER,
    ("envs/torchrl_env.py", "importlib.import_module"): NAMED_BY_THE_USER,
    ("training/beside.py", "importlib.import_module"): NAMED_BY_THE_USER,
    ("envs/robotics.py", "importlib.import_module"): NAMED_HERE,
    ("__init__.py", "importlib.import_module"): NAMED_HERE,
    ("bench/tune.py", "ray"): SENT_BY_US,
    ("launch/ray.py", "ray"): SENT_BY_US,
    ("launch/slurm.py", "submitit"): SENT_BY_US,
    ("training/export.py", "torch.export.save"): "writes what the user asked for, a torch.export archive",
    (
        "training/export.py",
        "torch.export.load",
    ): "reads the archive that the line above it wrote, to check it",
}


def test_no_file_of_the_package_can_load_code() -> None:
    scripts = PACKAGE.parent / "benchmarks"
    files = sorted(PACKAGE.rglob("*.py")) + sorted(scripts.glob("*.py"))
    assert len(files) > 100
    found = {}
    for file in files:
        for line, name in offences(file.read_text("utf-8")):
            root = PACKAGE.parent if file.parent == scripts else PACKAGE
            found.setdefault((file.relative_to(root).as_posix(), name), []).append(line)
    assert {key: lines for key, lines in found.items() if key not in ALLOWED} == {}
    assert set(ALLOWED) - set(found) == set()


CAUGHT = [
    # modules that unpickle
    "import pickle",
    "import os, pickle as p",
    "import pickle.whatever",
    "from cloudpickle import loads",
    "import shelve as s",
    "import dill",
    "import joblib",
    "import marshal",
    "import yaml\nyaml.load(text)",
    "from yaml import safe_load",
    "from torch import package",
    "from torch.package import PackageImporter",
    "import torch\ntorch.package.PackageImporter(p)",
    "import torch.hub",
    "import torch\ntorch.hub.load(repo, name)",
    "from torch import hub as h",
    "from torch.serialization import load",
    "import torch\ntorch.serialization.load(p)",
    "from multiprocessing.connection import Client",
    "def f():\n    import pickle",
    "try:\n    import pickle\nexcept ImportError:\n    pass",
    # functions of harmless modules, by whatever name
    "torch.load(path)",
    "torch . load(path)",
    "torch.save(x, path)",
    "from torch import load",
    "from torch import load as read",
    "import torch as t\nt.load(p)",
    "import torch\nt = torch\nt.load(p)",
    "import torch\na = b = torch\nb.load(p)",
    "import torch\na, b = os, torch\nb.load(p)",
    "import torch\nif (t := torch):\n    t.load(p)",
    "import torch\ndef __init__(self):\n    self.t = torch\ndef f(self):\n    self.t.load(p)",
    "import torch\nread = torch.load",
    "import torch\nmap(torch.load, paths)",
    "import torch\ndef f(read=torch.load): pass",
    "import torch\ngetattr(torch, 'load')(p)",
    "import torch\nread = getattr(torch, 'load')",
    "import torch\nvars(torch)['load'](p)",
    "import torch\ntorch.__dict__['load'](p)",
    "import sys\nsys.modules['pickle'].loads(data)",
    "import sys\nsys.modules['torch'].load(data)",
    "from torch import *",
    "import torch\ntorch.jit.load(path)",
    "from torch import jit\njit.load(path)",
    "import torch.jit as j\nj.load(path)",
    "import torch\ntorch.export.load(path)",
    "from torch import export\nexport.save(program, path)",
    "import torch\ntorch.distributed.broadcast_object_list(x)",
    "from torch.utils.cpp_extension import load",
    "import pandas\npandas.read_pickle(path)",
    "import pandas as pd\npd.read_pickle(path)",
    "frame.read_pickle(path)",
    "TensorDict.load_memmap(path)",
    "torch.ops.load_library(path)",
    "import ctypes\nctypes.CDLL(path)",
    "from ctypes import cdll\ncdll.LoadLibrary(path)",
    "import runpy",
    "from importlib.util import spec_from_file_location",
    "from importlib.machinery import SourceFileLoader",
    # arrays of objects
    "np.load(path, allow_pickle=True)",
    "import numpy as n\nn.load(path, allow_pickle=True)",
    "from numpy import load as read\nread(path, allow_pickle=flag)",
    "import numpy\nnumpy.load(path, None, True)",
    "import numpy\nnumpy.load(path, **options)",
    "import numpy\nnumpy.load(*words)",
    "import numpy\nread = numpy.load",
    "anything(path, allow_pickle=True)",
    # expressions and code
    "x = eval(text)",
    "exec(code)",
    "compile(text, '', 'exec')",
    "run = eval",
    "eval = eval\neval(text)",
    "import builtins\nbuiltins.eval(text)",
    "from builtins import exec as run",
    "getattr(builtins, 'eval')(text)",
    "__import__(name)",
    "__import__('pickle')",
    "import importlib\nimportlib.import_module('pickle')",
    "import importlib as i\ni.import_module('torch.hub')",
    "from importlib import import_module\nimport_module('dill')",
    "from importlib import import_module as bring\nt = bring('torch')\nt.load(p)",
    "import importlib\nimportlib.import_module('torch').load(p)",
    "import importlib\nimportlib.import_module(name)",
    "import importlib\nimportlib.import_module(name=name)",
    "import importlib\nimportlib.import_module(f'{name}.x')",
    "import importlib\nimportlib.import_module(f'torch.{name}')",
    "import importlib\nimportlib.import_module(f'pick{name}')",
    "import importlib\nmap(importlib.import_module, names)",
    # shells
    "import os\nos.system(text)",
    "from os import system",
    "from os import popen as p",
    "import os as o\no.execvp('x', words)",
    "import subprocess\nsubprocess.run(text, shell=True)",
    "import subprocess\nsubprocess.run(text, shell=flag)",
    "import subprocess\nsubprocess.getoutput(text)",
    "from subprocess import getstatusoutput",
    "import subprocess as s\ns.getoutput(text)",
    "import subprocess\nsubprocess.run(['sh', '-c', text])",
    "from subprocess import Popen as P\nP(args=('/bin/bash', '-c', text))",
    "import asyncio\nasyncio.create_subprocess_shell(text)",
    # what pickles between processes
    "import submitit",
    "import importlib\nray = importlib.import_module('ray')",
    "from ray import tune",
]

HARMLESS = [
    "actor.eval()",
    "import torch\ntorch.compile(f)",
    "import re\nre.compile(x)",
    "def eval(x): 1",
    "import safetensors.torch\nsafetensors.torch.load(data)",
    "from safetensors import torch\ntorch.load(data)",
    "from safetensors.torch import load, save_file\nload(data)",
    "import json\njson.load(file)\njson.loads(text)",
    "import tomllib\ntomllib.load(file)",
    "agent.load_state_dict(state)",
    "entry.load()",
    "# import pickle",
    '"""import pickle"""',
    "text = 'torch.load(path)'",
    "from .pickle import own",
    "from . import yaml",
    "import pickled_things",
    "import yamllint",
    "code = process.wait()\ncode.bit_length()",
    "def f(code, imp): return code, imp.x",
    "import numpy as np\nnp.load(path)",
    "import numpy as np\nnp.load(path, mmap_mode='r')",
    "import numpy as np\nnp.load(path, allow_pickle=False)",
    "from numpy import load\nload(path)",
    "import torch\nself.load = torch.zeros(3)\nself.load.sum()",
    "import torch\nx.torch.load_it(p)",
    "import torch\ngetattr(torch, name)",
    "import sys\nsys.modules['numpy'].zeros(3)",
    "import importlib\nimportlib.import_module('numpy').zeros(3)",
    "import importlib\nimportlib.import_module(f'rlsuite.agents.{name}')",
    "import importlib\nimportlib.import_module(f'{__package__}.{name}')",
    "import importlib.metadata\nimportlib.metadata.version('pickle')",
    "import importlib.util\nimportlib.util.find_spec('pickle')",
    "import os\nos.replace(a, b)\nos.path.exists(a)",
    "import os\nos.system_name",
    "import subprocess\nsubprocess.run(['git', 'status'])",
    "import subprocess\nsubprocess.run([sys.executable, '-c', text], shell=False)",
    "import subprocess\nsubprocess.Popen(words)",
    "import multiprocessing\nmultiprocessing.cpu_count()",
    "import logging\nlogging.getLogger(name)",
    "from torch import nn, export\nexport.export(m, x)",
    "from collections import *",
]


@pytest.mark.parametrize("source", CAUGHT)
def test_the_search_finds_what_it_should(source: str) -> None:
    assert offences(source)


@pytest.mark.parametrize("source", HARMLESS)
def test_the_search_lets_harmless_code_pass(source: str) -> None:
    assert not offences(source)


def test_the_search_says_what_and_where() -> None:
    source = "import torch as t\n\n\ndef f(p):\n    return t.load(p), __import__(p)\n"
    assert offences(source) == [(5, "builtins.__import__"), (5, "torch.load")]
