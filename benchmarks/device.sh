#!/usr/bin/env bash
# What a machine with a CUDA device is for: the GPU tests, then speed and memory into benchmarks/results/device/.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
out="${OUT_DIR:-benchmarks/results/device}"
"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "no CUDA device here")'
"$python" -m pytest -m gpu
"$python" benchmarks/device.py --device cuda --out "$out/engine.csv"
