#!/usr/bin/env bash
# What a machine with a CUDA device is for: speed and memory into benchmarks/results/device/, then the GPU tests.
# Installs nothing; no part stops another. Without network or Warp: benchmarks/gpu_kit/.
set -u
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
out="${OUT_DIR:-benchmarks/results/device}"
failed=0
run() {
  echo "$*"
  "$@" || { echo "ended with $?: $*" >&2; failed=1; }
}
"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "no CUDA device here")' || exit
mkdir -p "$out"
run "$python" benchmarks/updates.py --out "$out/updates.csv"
run "$python" benchmarks/updates.py --agents sac --seeds 1 8 --n-steps 1 --precisions float32 --out "$out/seeds.csv"
run "$python" benchmarks/device.py --out "$out/engine.csv"
# The files that have GPU tests: collecting all tests would need packages that only they import.
run "$python" -m pytest -m gpu tests/training/test_graphs.py tests/returns/test_vectorised.py \
  tests/faults/test_row_20_plugins_on_strangers_networks.py tests/envs/test_warp_gpu.py
run "$python" -m pytest -m gpu tests/faults/test_row_19_memory_that_does_not_suffice.py
exit $failed
