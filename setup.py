"""Metadata and dependencies. Exact versions are in requirements/: one lock a lane."""

from setuptools import find_packages, setup


def lanes(name: str, portable: str | None, current: str | None) -> list[str]:
    """The requirement of either lane: `portable` is Python 3.10, `current` is 3.12 and later."""
    bounds = ((portable, 'python_version < "3.11"'), (current, 'python_version >= "3.12"'))
    return [f"{name}{bound}; {marker}" for bound, marker in bounds if bound]


_REQUIRES = [
    *lanes("tfx", ">=1.16,<1.17", ">=1.21,<1.22"),
    *lanes("tfx-bsl", ">=1.16,<1.17", ">=1.21,<1.22"),
    *lanes("tensorflow", ">=2.16.2,<2.17", ">=2.21,<2.22"),
    *lanes("tf-keras", ">=2.16,<2.17", ">=2.21,<2.22"),
    *lanes("tensorflow-transform", ">=1.16,<1.17", ">=1.21,<1.22"),
    *lanes("tensorflow-data-validation", ">=1.16,<1.17", ">=1.21,<1.22"),
    *lanes("tensorflow-model-analysis", ">=0.47,<0.48", ">=0.48"),
    *lanes("tensorflow-serving-api", ">=2.16,<2.17", ">=2.17"),
    *lanes("apache-beam", ">=2.64,<2.65", ">=2.72"),
    *lanes("dill", ">=0.3.1.1,<0.3.2", None),
    *lanes("keras-tuner", ">=1.3.5,<1.4", ">=1.3.5"),
    "tensorflow-recommenders>=0.7.7,<0.8",
    "tensorflow-metadata>=1.16",
    "tensorboard>=2.16",
    "numpy>=1.26",
    "pandas>=1.5.3",
    "protobuf>=3.20.3",
    "pyarrow>=10",
    "aiohttp>=3.9",
    "click>=8.1",
    "google-crc32c>=1.5",
    "grpcio>=1.60",
    "grpcio-health-checking>=1.48",
    "jinja2>=3.1",
    "matplotlib>=3.8",
    "pydantic>=2",
    "PyYAML>=6",
    "rich>=13",
    "pip",
    "setuptools<81",
]

_EXTRAS = {
    "gpu": [
        *lanes("tensorflow[and-cuda]", ">=2.16.2,<2.17", ">=2.21,<2.22"),
    ],
    "kfp": lanes("kfp", ">=2.0.1,<2.6", None),
    "ann": lanes("scann", ">=1.3.2,<1.4", ">=1.4"),
    "notebooks": ["ipykernel", "nbclient", "nbformat"],
    "test": ["pytest>=7.4", "pytest-timeout>=2.2", "pytest-xdist>=3.5", "ruff"],
}

setup(
    name="recsys-tfx",
    version="0.1.0",
    description="Published recommender models under one contract, from raw data to a gated, "
    "served model, on TFX and TensorFlow Recommenders",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10,!=3.11.*,<3.14",
    packages=[
        *find_packages(
            include=[f"{top}*" for top in ("components", "models", "pipeline", "serving")]
        ),
        *("schema", *(f"schema.{name}" for name in ("adult", "criteo", "generic", "movielens"))),
    ],
    package_data={
        "": ["*.pbtxt"],
        "pipeline": ["templates/*"],
        "serving": ["README.md", "config/*", "deploy/*"],
    },
    install_requires=_REQUIRES,
    extras_require=_EXTRAS,
    entry_points={"console_scripts": ["recsys = pipeline.cli:main"]},
)
