"""What is installed is what was tested, and a user's folders cannot stand in its way."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

HOUSE = Path(__file__).parents[1]
PACKAGES = ("losssearch", "search_spaces", "workers", "dashboards")
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKE_NEEDS = ("Makefile", "pyproject.toml", "constraints.txt")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the files here without any network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build; hatchling.build.build_wheel({str(folder)!r})"
    done = run(sys.executable, "-c", build, cwd=HOUSE)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the contents of the wheel, as site-packages would."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def shipped_files() -> set[str]:
    return {
        path.relative_to(HOUSE).as_posix()
        for package in PACKAGES
        for path in (HOUSE / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_the_wheel_holds_every_file_of_the_four_packages(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert shipped_files() <= inside
    rest = {name for name in inside - shipped_files() if ".dist-info/" not in name}
    assert not rest


def test_each_code_package_says_that_it_is_typed() -> None:
    assert {f"{package}/py.typed" for package in PACKAGES[:1] + PACKAGES[2:]} <= shipped_files()


def test_the_wheel_brings_licence_script_and_entry_points(installed: Path) -> None:
    (info,) = installed.glob("*.dist-info")
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text(encoding="utf-8")
    points = (info / "entry_points.txt").read_text(encoding="utf-8")
    assert "losssearch = losssearch.cli:main" in points
    assert "ray = workers.ray_pool:RayPool" in points
    assert "dashboard = dashboards.command:dashboard" in points
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text(encoding="utf-8")


def test_every_entry_point_leads_somewhere() -> None:
    groups = [PROJECT["scripts"], *PROJECT["entry-points"].values()]
    for target in [value for group in groups for value in group.values()]:
        module, _, name = target.partition(":")
        path = HOUSE / (module.replace(".", "/") + ".py")
        assert path.is_file(), target
        assert re.search(rf"^(def|class) {name}\b|^{name}\b.*=", path.read_text(), re.M), target


def test_the_wheel_finds_its_spaces_by_place(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "search_spaces").mkdir()
    code = "import losssearch.spaces as s; print(s.__file__); print(s.load_space('multiclass').path)"
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert line.startswith(str(installed))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A current folder whose own packages have our names, and end the program when imported."""
    for package in ("workers", "dashboards", "search_spaces"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"raise SystemExit('{package} of the user')")
    return tmp_path


def test_a_users_own_folders_do_not_hide_ours(hostile: Path) -> None:
    done = run(sys.executable, "-m", "losssearch", "--help", cwd=hostile)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of the user" not in done.stdout + done.stderr
    code = (
        "from losssearch.__main__ import move_current_folder_last as move; move(); "
        "import workers, dashboards; print(workers.__path__, dashboards.__path__)"
    )
    done = run(sys.executable, "-c", code, cwd=hostile)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_pool_that_is_hidden_by_a_users_folder_is_refused_in_one_line(hostile: Path) -> None:
    (hostile / "workers" / "__init__.py").write_text("")
    code = """
from losssearch.errors import PoolError
from losssearch.pools.open import open_pool
try:
    open_pool("ray:1")
except PoolError as error:
    print(error)
"""
    done = run(sys.executable, "-c", code, cwd=hostile)
    assert done.returncode == 0, done.stderr
    assert "hides" in done.stdout
    assert str(hostile) in done.stdout
    assert done.stdout.count("\n") == 1


def test_what_is_installed_is_what_constraints_pin() -> None:
    text = (HOUSE / "constraints.txt").read_text(encoding="utf-8")
    pins = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    wrong = []
    for pin in pins:
        try:
            version = distribution(pin.name).version
        except PackageNotFoundError:
            continue  # belongs to another platform
        if not pin.specifier.contains(version, prereleases=True):
            wrong.append(f"{pin}, but {version} is installed")
    assert not wrong


def test_every_dependency_is_pinned_within_its_range() -> None:
    text = (HOUSE / "constraints.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.M))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]:
        wanted = Requirement(line)
        assert wanted.name in pins, f"{wanted.name} has no pin"
        assert wanted.specifier.contains(pins[wanted.name]), line


def test_the_version_is_said_once_in_two_places() -> None:
    import losssearch

    assert losssearch.__version__ == PROJECT["version"]


# The Makefile


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in MAKE_NEEDS:
        shutil.copy(HOUSE / name, tmp_path / name)
    return tmp_path


def stamp(checkout: Path, python: str = sys.executable) -> str:
    done = run("make", "-n", "setup", f"PYTHON={python}", cwd=checkout)
    (name,) = re.findall(r"touch (\S+)", done.stdout)
    return str(name)


def test_the_stamp_follows_content_and_not_dates(checkout: Path) -> None:
    before = stamp(checkout)
    os.utime(checkout / "pyproject.toml", (1, 1))
    assert stamp(checkout) == before
    for name in MAKE_NEEDS:
        with (checkout / name).open("a") as file:
            file.write("\n# another line\n")
        assert stamp(checkout) != before
        before = stamp(checkout)


def test_a_venv_with_the_stamp_is_left_alone(checkout: Path) -> None:
    path = checkout / stamp(checkout)
    path.parent.mkdir()
    path.touch()
    done = run("make", "setup", f"PYTHON={sys.executable}", cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert "Installing" not in done.stdout


def fake_python(folder: Path, body: str) -> Path:
    """A program that passes for Python where the Makefile asks it something."""
    path = folder / "python-fake"
    path.write_text(f'#!/bin/sh\n{body}\nexec {sys.executable} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_without_the_venv_module_the_package_is_named(checkout: Path) -> None:
    python = fake_python(checkout, 'case "$2" in *ensurepip*) exit 1;; esac')
    done = run("make", "setup", f"PYTHON={python}", cwd=checkout)
    assert done.returncode != 0
    major, minor = sys.version_info[:2]
    assert f"apt-get install python{major}.{minor}-venv" in done.stdout


def test_an_old_python_is_refused(checkout: Path) -> None:
    python = fake_python(checkout, 'case "$2" in *"< (3, 11)"*) exit 1;; esac')
    done = run("make", "setup", f"PYTHON={python}", cwd=checkout)
    assert done.returncode != 0
    assert "older than Python 3.11" in done.stdout


def test_a_venv_without_pip_is_made_anew_and_said_so(checkout: Path) -> None:
    """The fake stops where the venv would be made, so nothing is installed."""
    python = fake_python(checkout, '[ "$2" = venv ] && echo "venv: $*" && exit 7')
    binary = checkout / ".venv" / "bin"
    binary.mkdir(parents=True)
    (binary / "python").symlink_to("/bin/false")
    done = run("make", "setup", f"PYTHON={python}", cwd=checkout)
    assert done.returncode != 0
    said, made = done.stdout.splitlines()[:2]
    assert said.startswith("Installing")
    assert made == "venv: -m venv --clear .venv"


def test_the_ci_script_closes_with_the_summary_of_pytest() -> None:
    script = (HOUSE / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(HOUSE / ".ci" / "run", os.X_OK)
    assert "set -euo pipefail" in script
    assert script.splitlines()[-1].startswith("exec env OMP_NUM_THREADS=1 .venv/bin/python -m pytest")
