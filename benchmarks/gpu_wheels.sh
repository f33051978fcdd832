#!/usr/bin/env bash
# Gathers the pure-Python wheels that benchmarks/gpu.py wants and a bare machine with PyTorch may lack (under 20 MB):
#
#   benchmarks/gpu_wheels.sh wheels/         # here
#   pip install --no-index --no-deps --target site wheels/*.whl && PYTHONPATH=site python benchmarks/gpu.py out=...
set -euo pipefail
target=${1:?"the folder for the wheels"}
python3 -m pip wheel --quiet --no-deps --wheel-dir "$target" \
  omegaconf==2.4.0 webdataset==1.0.2 braceexpand==0.1.7 diffusers==0.42.1 importlib_metadata==8.7.0 lpips==0.1.4 \
  denoising-diffusion-pytorch==2.3.4 ema-pytorch==0.8.3 pytorch-fid==0.3.0
du -sh "$target"
