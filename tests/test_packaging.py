"""What a wheel, a source distribution and an editable install contain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from importlib.metadata import distribution, requires
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {
    "llama",
    "onnx",
    "onnx-gpu",
    "mcp",
    "check",
    "training",
    "alfworld",
    "ray",
    "mlflow",
    "wandb",
    "export",
    "dev",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of this checkout and the wheel that is built from it, as a release is."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def sdist_names(built: Path) -> set[str]:
    """The files of the sdist, without the folder that holds them all."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def shipped_models() -> set[str]:
    """What of `models/` a device needs: cards, backbones, manifests, and the files that manifests list."""
    models = ROOT / "models"
    names = {f"cards/{path.name}" for path in (models / "cards").glob("*.yaml")}
    names |= {f"backbones/{path.name}" for path in (models / "backbones").glob("*.json")}
    for manifest in (models / "rewriters").glob("*/manifest.json"):
        names.add(manifest.relative_to(models).as_posix())
        listed = json.loads(manifest.read_text("utf-8"))["files"]
        names |= {(manifest.parent / name).relative_to(models).as_posix() for name in listed}
    return names


def test_the_wheel_holds_the_three_packages_and_the_models_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"masa", "masa_training", "masa_export"}
    for package in ("masa", "masa_training", "masa_export"):
        assert f"{package}/__init__.py" in wheel.namelist()
        assert f"{package}/py.typed" in wheel.namelist()
    models = {name.removeprefix("masa/_models/") for name in wheel.namelist() if "/_models/" in name}
    assert shipped_models() <= models
    assert not any(name.startswith("instruments/") for name in models)
    assert len(shipped_models()) > 10


def test_the_wheel_holds_every_module_of_the_checkout(wheel: zipfile.ZipFile) -> None:
    for folder in ("runtime", "training", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            assert path.relative_to(ROOT / folder).as_posix() in wheel.namelist()


def test_the_wheel_holds_no_tests_no_caches_and_no_weights_but_listed_ones(wheel: zipfile.ZipFile) -> None:
    models = {f"masa/_models/{name}" for name in shipped_models()}
    for name in wheel.namelist():
        parts = PurePosixPath(name).parts
        assert not {"tests", "__pycache__", "benchmarks", "examples", "conftest.py"} & set(parts), name
        if PurePosixPath(name).suffix in (".gguf", ".onnx", ".safetensors", ".part", ".bin"):
            assert name in models, name
    assert sum(info.file_size for info in wheel.infolist()) < 40_000_000


def test_the_wheel_names_every_extra_its_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = message_from_string(wheel.read(f"{info}/METADATA").decode())
    import masa

    assert metadata["Name"] == "masa-skills"
    assert metadata["Version"] == masa.__version__
    assert set(metadata.get_all("Provides-Extra") or ()) == EXTRAS
    assert metadata["License-Expression"] == "Apache-2.0"
    assert b"Apache License" in wheel.read(f"{info}/licenses/LICENSE")
    assert "masa = masa.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    pinned = [line for line in metadata.get_all("Requires-Dist") or () if line.startswith("llama-cpp-python")]
    assert pinned and all(">=" in line and "<" in line for line in pinned)


@pytest.mark.parametrize("extra", ["llama", "onnx"])
def test_a_device_needs_neither_torch_nor_transformers_and_little_room(extra: str) -> None:
    """Room beyond numpy and the inference library itself."""
    needed = _closure("masa-skills", extra)
    assert {"numpy", "llguidance"} <= needed
    assert not needed & {"torch", "transformers", "accelerate", "peft"}
    counted = needed - {"numpy", "onnxruntime", "llama-cpp-python", "masa-skills"}
    sizes = {name: _size(name) for name in counted}
    assert 5e6 < sum(sizes.values()) < 150e6, sizes


def _closure(name: str, extra: str) -> set[str]:
    """What an installation of a distribution with an extra brings along, itself included, as installed here."""
    seen: set[tuple[str, str]] = set()
    waiting = [(name, extra)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, requires(name) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), more) for more in ("", *requirement.extras)]
    return {name for name, _ in seen}


def _size(name: str) -> int:
    """Bytes of the files of an installed distribution."""
    paths = (Path(str(path.locate())) for path in distribution(name).files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def test_masa_finds_its_models_in_an_unpacked_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = "import masa, masa.folders; print(masa.__file__); print(masa.folders.models_dir())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    package, models = (Path(line) for line in run.stdout.splitlines())
    assert package == tmp_path / "masa" / "__init__.py"
    assert models == tmp_path / "masa" / "_models"


def test_the_sdist_holds_what_is_needed_to_build_test_and_read(sdist_names: set[str]) -> None:
    needed = {"pyproject.toml", "hatch_build.py", "LICENSE", "README.md", "CONTRIBUTING.md", "scripts/dev.py"}
    needed |= {f"models/{name}" for name in shipped_models()}
    needed |= {"tests/test_packaging.py", "tests/conftest.py", "runtime/masa/py.typed"}
    assert needed <= sdist_names


def test_the_sdist_holds_neither_weights_nor_what_tools_left_behind(sdist_names: set[str]) -> None:
    models = {f"models/{name}" for name in shipped_models()}
    for name in sdist_names:
        assert not {".venv", "__pycache__", ".git", ".mypy_cache", ".masa"} & set(name.split("/")), name
        allowed = name in models or name.startswith("tests/fixtures/")
        assert allowed or not name.endswith((".gguf", ".part")), name


def test_an_editable_install_is_path_entries_and_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hatchling = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    name = hatchling.build_editable(str(tmp_path))
    with zipfile.ZipFile(tmp_path / name) as archive:
        files = [entry for entry in archive.namelist() if ".dist-info/" not in entry]
        assert len(files) == 1 and files[0].endswith(".pth")
        lines = archive.read(files[0]).decode().split()
    assert sorted(lines) == sorted(str(ROOT / folder) for folder in ("runtime", "training", "export"))


def test_weights_that_no_manifest_lists_stay_out(tmp_path: Path) -> None:
    shipped = _hook().shipped
    folder = tmp_path / "rewriters" / "mine"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"files": {"adapter.gguf": {"sha256": "0", "bytes": 1}}}))
    (folder / "adapter.gguf").write_bytes(b"x")
    (folder / "experiment.gguf").write_bytes(b"x")
    assert [path.name for path in shipped(tmp_path)] == ["adapter.gguf", "manifest.json"]
    (folder / "adapter.gguf").unlink()
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: lists adapter\.gguf"):
        shipped(tmp_path)


def _hook():  # type: ignore[no-untyped-def]
    import importlib.util

    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
