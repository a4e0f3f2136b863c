# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What MONAI's model zoo asks of a bundle's files, and how a test runs a bundle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata

from monai_cluster.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"monai", "torch", "ignite", "monai_cluster"}
REQUIRED = {
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
    "description", "authors", "copyright", "network_data_format",
}  # fmt: skip


# files


def read(bundle: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "configs" / f"{name}.json").read_text())
    return content


def files(bundle: Path, *names: str) -> list[str]:
    return [str(bundle / "configs" / f"{name}.json") for name in names]


def meta_file(bundle: Path) -> str:
    return str(bundle / "configs" / "metadata.json")


def config_names(bundle: Path) -> list[str]:
    return sorted(path.stem for path in (bundle / "configs").glob("*.json") if path.stem != "metadata")


def check_that_no_key_is_given_twice(bundle: Path) -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), [key for key in keys if keys.count(key) > 1]
        return dict(pairs)

    for file in (bundle / "configs").glob("*.json"):
        json.loads(file.read_text(), object_pairs_hook=once)


def targets_of(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        yield from ([content["_target_"]] if "_target_" in content else [])
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from targets_of(item)


def expressions_of(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from expressions_of(item)
    elif isinstance(content, str) and content.startswith("$"):
        yield content


def check_targets(content: dict[str, Any]) -> None:
    for target in targets_of(content):
        assert target.split(".")[0] in PACKAGES, target
        assert callable(locate(target)), f"{target} does not exist"


def check_imports(bundle: Path) -> None:
    for file in (bundle / "configs").glob("*.json"):
        for text in expressions_of(json.loads(file.read_text())):
            imported = re.findall(r"^\$import (\w+)|__import__\('([\w.]+)'\)", text)
            names = {(plain or dynamic).split(".")[0] for plain, dynamic in imported}
            assert names <= PACKAGES | {"os", "sys"}, f"{file.name}: {text}"


def check_overrides(bundle: Path, base: str, names: Sequence[str]) -> None:
    """Every key that override files add is used, and every reference is defined."""
    parser = ConfigParser()
    parser.read_config(files(bundle, base, *names))
    parser.read_meta(meta_file(bundle))
    parser.parse()
    text = json.dumps(parser.get())
    known = set(read(bundle, base))
    for key in {key.lstrip("+").split("#")[0] for name in names for key in read(bundle, name)} - known:
        assert f"@{key}" in text, f"{key} is set and never used"
    for reference in set(re.findall(r"@([A-Za-z_]\w*)", text)):
        assert reference in parser.get(), f"@{reference} is not defined"


def check_that_several_processes_prepare_what_one_does(bundle: Path) -> None:
    one, many = read(bundle, "train"), read(bundle, "multi_gpu_train")
    for step in ("initialize", "finalize"):
        assert [line for line in one[step] if line not in many[step]] == []
    assert many["initialize"].index("$monai_cluster.apps.prepare_output(@output_dir, @resume)") > next(
        place for place, line in enumerate(many["initialize"]) if "init_process_group" in line
    ), "rank 1 must not make folders before it knows its rank"


# metadata


def check_metadata(bundle: Path) -> None:
    meta = read(bundle, "metadata")
    assert set(meta) >= REQUIRED
    assert meta["version"] in meta["changelog"]
    assert meta["required_packages_version"]["monai-cluster"] == __version__
    assert set(meta["network_data_format"]["inputs"]) == {"image"}
    for side in ("inputs", "outputs"):
        for tensor in meta["network_data_format"][side].values():
            assert set(tensor) >= {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}
    assert "Apache License" in (bundle / "LICENSE").read_text()


def check_pins(bundle: Path) -> None:
    meta = read(bundle, "metadata")
    pins = dict(re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / "constraints.txt").read_text(), re.M))
    pins = {name.lower(): version for name, version in pins.items()}
    said = {"monai": meta["monai_version"], "torch": meta["pytorch_version"], "numpy": meta["numpy_version"]}
    said |= {name.lower(): version for name, version in meta["required_packages_version"].items()}
    assert {name: pins.get(name) for name in said if name != "monai-cluster"} == {
        name: version for name, version in said.items() if name != "monai-cluster"
    }


def check_schema(bundle: Path, folder: Path) -> None:
    schema = ROOT.parent / "shared" / "schema" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip(f"MONAI's metadata schema is not beside the checkout: {schema}")
    copied = folder / schema.name
    shutil.copy(schema, copied)
    verify_metadata(meta_file=meta_file(bundle), filepath=str(copied))
    broken = folder / "metadata.json"
    broken.write_text(json.dumps({key: value for key, value in read(bundle, "metadata").items() if key != "task"}))
    with pytest.raises(ValueError, match="task"):
        verify_metadata(meta_file=str(broken), filepath=str(copied))


# runs


def finished(made: ConfigWorkflow) -> ConfigWorkflow:
    made.initialize()
    made.run()
    made.finalize()
    return made


def cause_of(failure: pytest.ExceptionInfo[BaseException]) -> BaseException:
    error = failure.value
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def epochs_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
