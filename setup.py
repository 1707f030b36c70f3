"""Metadata and dependencies. Exact versions are in requirements/: one lock a lane.

Clone it, do not publish it: an installed wheel would put packages called `models`, `components`,
`pipeline`, `schema` and `serving` into somebody else's environment. `make venv` installs the clone
itself, editable, into an environment of its own; all that would make a distribution is refused, and
an index refuses the classifier.
"""

from setuptools import Command, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.install import install
from setuptools.command.sdist import sdist


def refuse(command: Command) -> None:
    """Stands in for what a command would run."""
    raise SystemExit(
        f"{command.get_command_name()} is refused: recsys-tfx is cloned, not published, since its "
        "packages are called models, components, pipeline, schema and serving. Clone it and run "
        "`make venv`"
    )


def refused(command: type[Command]) -> type[Command]:
    """The command, which an editable install asks for names and tags, and which does not run."""
    return type(command.__name__, (command,), {"run": refuse})


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
    *lanes("keras-tuner", ">=1.3.5,<1.4", None),
    "tensorflow-recommenders>=0.7.7,<0.8",
    "tensorflow-metadata>=1.16",
    "tensorboard>=2.16",
    "ml-dtypes>=0.3",
    "ml-metadata>=1.16",
    "numpy>=1.26",
    "pandas>=1.5.3",
    "protobuf>=3.20.3",
    "pyarrow>=10",
    "scipy>=1.12",
    "absl-py>=1.4",
    "aiohttp>=3.9",
    "click>=8.1",
    "google-crc32c>=1.5",
    "grpcio>=1.60",
    "grpcio-health-checking>=1.48",
    "jinja2>=3.1",
    "markupsafe>=2.1",
    "orjson>=3.9",
    "psutil>=6",
    "pydantic>=2",
    "PyYAML>=6",
    "rich>=13",
    "yarl>=1.9",
    "pip",
    "setuptools<81",
]

_EXTRAS = {
    "gpu": [
        *lanes("tensorflow[and-cuda]", ">=2.16.2,<2.17", ">=2.21,<2.22"),
    ],
    "kfp": [
        *lanes("kfp", ">=2.0.1,<2.6", None),
        *lanes("kfp-pipeline-spec", None, ">=2.14,<2.17"),
    ],
    "ann": lanes("scann", ">=1.3.2,<1.4", ">=1.4"),
    # Live state that several machines share; a file needs nothing.
    "redis": ["redis>=5"],
    # pandas draws the curves of the notebook with matplotlib.
    "notebooks": ["ipykernel", "matplotlib>=3.8", "nbclient", "nbformat"],
    "test": [
        *("pytest>=7.4", "pytest-timeout>=2.2", "pytest-xdist>=3.5"),
        *("moto[s3]>=5", "flask", "flask-cors"),
        *("deptry", "mypy", "pre-commit", "ruff"),
        *("types-grpcio", "types-protobuf", "types-PyYAML"),
    ],
}

setup(
    name="recsys-tfx",
    version="0.1.0",
    description="Published recommender models under one contract, from raw data to a gated, "
    "served model, on TFX and TensorFlow Recommenders",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Private :: Do Not Upload",
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
    cmdclass={
        command.__name__: refused(command) for command in (bdist_wheel, build, install, sdist)
    },
    entry_points={"console_scripts": ["recsys = pipeline.cli:main"]},
)
