"""Installed as users install it: the wheel, an editable checkout, and a third party's filter beside either.

Without the network: what mailgate depends on is lent to each fresh environment from the one that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "mailgate-noreply"

_NOT_SOURCE = shutil.ignore_patterns(
    *(".*", "__pycache__", "*.egg-info", "build", "dist", "var", "_trial_temp", "dropin.cache")
)
_BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
_FIND = """
from mailgate.pipeline.registry import Registry
registry = Registry()
for kind in ("noreply", "headers"):
    factory = registry.find(kind)
    print(factory.name, factory.options.__module__, factory.options().__class__.__name__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a command printed; AssertionError with its errors where it failed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(  # noqa: S603  our own commands
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is under version control, so that nothing is built inside the checkout."""
    copy = tmp_path_factory.mktemp("sources") / "mailgate"
    shutil.copytree(ROOT, copy, ignore=_NOT_SOURCE)
    return copy


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distributions of this environment, except mailgate and the files that would bring it in."""
    folder = tmp_path_factory.mktemp("dependencies")
    for packages in (Path(entry) for entry in sys.path if Path(entry).name == "site-packages"):
        for entry in packages.iterdir():
            ours = "mailgate" in entry.name or entry.suffix in {".pth", ".egg-link"}
            if not ours and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    return folder


def built(kind: str, project: Path, into: Path) -> Path:
    """The file that the build backend makes of a project: `kind` is "wheel" or "sdist"."""
    return into / run(sys.executable, "-c", _BUILD, f"build_{kind}", into, cwd=project).split()[-1]


class Environment:
    """A fresh virtual environment that sees the dependencies and nothing else."""

    def __init__(self, folder: Path, dependencies: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(f"{dependencies}\n")

    def install(self, *arguments: str | Path) -> None:
        """As `pip install` with these arguments, offline."""
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
        run(sys.executable, "-m", "pip", "--python", self.python, "install", *offline, *arguments, cwd=self.folder)

    def run(self, *arguments: str | Path) -> str:
        """What this environment's Python prints; the checkout is not on its path."""
        return run(self.python, *arguments, cwd=self.folder)


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sources: Path, dependencies: Path
) -> Environment:
    """mailgate and the example, both as wheels or both editable."""
    folder = tmp_path_factory.mktemp(request.param)
    environment = Environment(folder / "venv", dependencies)
    projects = [sources, sources / "examples" / EXAMPLE.name]
    if request.param == "wheel":
        environment.install(*(built("wheel", project, folder) for project in projects))
    else:
        for project in projects:
            environment.install("--editable", project)
    return environment


def test_twistd_lists_the_command(installed: Environment) -> None:
    commands = installed.run("-c", "from twisted.scripts.twistd import run; run()", "--help")
    assert "A mail gateway that people program in Python." in commands


def test_filters_are_found_by_name(installed: Environment) -> None:
    assert installed.run("-c", _FIND).splitlines() == [
        "noreply mailgate_noreply Options",
        "headers mailgate.filters.headers Options",
    ]


def test_nothing_comes_from_the_checkout(installed: Environment) -> None:
    place = Path(installed.run("-c", "import mailgate; print(mailgate.__file__)").strip())
    assert ROOT not in place.parents


def test_the_third_partys_own_tests_pass(installed: Environment, sources: Path) -> None:
    # pytest fails where it finds no test.
    installed.run("-m", "pytest", "--quiet", "-p", "no:cacheprovider", sources / "examples" / EXAMPLE.name / "tests")


def test_the_wheel_has_what_runs_and_no_more(sources: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built("wheel", sources, tmp_path)) as wheel:
        names = wheel.namelist()
    expected = {
        *("mailgate/py.typed", "mailgate/spool/schema/001.sql", "mailgate/plugins/builtin.py"),
        "twisted/plugins/mailgate_plugin.py",
    }
    assert expected <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mailgate", "twisted"}
    assert not {"twisted/__init__.py", "twisted/plugins/__init__.py"} & set(names)


def test_a_third_party_ships_no_init_of_ours(sources: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built("wheel", sources / "examples" / EXAMPLE.name, tmp_path)) as wheel:
        ours = [name for name in wheel.namelist() if name.startswith("mailgate/")]
    assert ours == ["mailgate/plugins/noreply.py"]


def test_the_sdist_has_what_an_administrator_and_a_developer_need(sources: Path, tmp_path: Path) -> None:
    with tarfile.open(built("sdist", sources, tmp_path)) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    expected = {
        *("Makefile", "README.md", "LICENSE", "CHANGELOG.md", "docs/architecture.md", "docs/writing-a-filter.md"),
        *("etc/demo.toml", "etc/systemd/mailgate.service", "mailgate/spool/schema/001.sql"),
        *(f"examples/{EXAMPLE.name}/{name}" for name in ("setup.cfg", "README.md", "src/mailgate/plugins/noreply.py")),
        *("tests/packaging/test_packaging.py", "twisted/plugins/mailgate_plugin.py"),
    }
    assert expected <= names
