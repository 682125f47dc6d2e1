"""What `pip install ml_notes` gives: every module, no test-only peer needed, no GPU, and nothing from the checkout."""
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from configparser import ConfigParser
from email.parser import HeaderParser

import book
import pytest

PEERS = ["diffusers", "transformers", "ot", "triton", "nbdev", "fastcore", "execnb", "IPython", "jupytext", "nbclient", "nbconvert", "playwright", "pytest"]
MODULES = sorted(f.relative_to(book.ROOT).as_posix() for f in (book.ROOT / "ml_notes").rglob("*.py"))


@pytest.fixture(scope="module")
def settings():
    config = ConfigParser(delimiters=["="])
    config.read(book.ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Built from a copy, so that a build folder left in the checkout can neither help nor stay."
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(book.ROOT / "ml_notes", source / "ml_notes", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(book.ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "--disable-pip-version-check", "-w", folder],
                   cwd=source, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    "Run a script where only the wheel is installed: its requirements are borrowed from this environment, without its editable ml_notes."
    home = tmp_path_factory.mktemp("home")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    interpreter = home / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-deps", "--no-index", "-q", "--disable-pip-version-check", wheel], check=True)
    (site,) = (home / "venv" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a path that a .pth file adds has its own .pth files ignored

    def run(script: str) -> str:
        done = subprocess.run([interpreter, "-I", "-c", script], cwd=home, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.site = site
    return run


WITHOUT_PEERS = f"""
import sys
from importlib.machinery import PathFinder
class Hide(PathFinder):  # finds nothing rather than raising: torch asks whether triton is there
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {PEERS} else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hide
"""


def test_wheel_holds_every_module_and_nothing_else(wheel):
    names = sorted(n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n)
    assert names == MODULES


def test_metadata_is_that_of_the_settings(wheel, settings):
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = HeaderParser().parsestr(archive.read(name).decode())
    assert (metadata["Name"], metadata["Version"], metadata["Requires-Python"]) == (settings["lib_name"], settings["version"], f">={settings['min_python']}")
    assert metadata["Summary"] == settings["description"]
    needed = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert sorted(needed) == sorted(settings["requirements"].split())


def test_import_is_light_and_not_from_the_checkout(python, settings):
    out = python("import sys, ml_notes; print(ml_notes.__file__, ml_notes.__version__, 'torch' in sys.modules)").split()
    assert out == [str(python.site / "ml_notes" / "__init__.py"), settings["version"], "False"]


def test_every_module_imports_without_peers_or_gpu(python):
    out = python(WITHOUT_PEERS + """
import importlib, importlib.util, pkgutil, ml_notes
assert importlib.util.find_spec("triton") is importlib.util.find_spec("pytest") is None
for module in pkgutil.walk_packages(ml_notes.__path__, "ml_notes."):
    importlib.import_module(module.name)
    print(module.name)
""").split()
    wanted = {m.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for m in MODULES} - {"ml_notes"}
    assert set(out) == wanted


@pytest.mark.skipif("ml_notes/attention/flash.py" not in MODULES, reason="the page is not written yet")
def test_what_the_readme_shows_runs_on_a_cpu(python):
    python(WITHOUT_PEERS + """
import torch
from ml_notes.attention.flash import attention
q, k, v = torch.randn(3, 1, 8, 100, 64, generator=torch.Generator().manual_seed(0))
torch.testing.assert_close(attention(q, k, v, causal=True), torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
""")
