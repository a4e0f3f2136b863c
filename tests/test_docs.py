# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""README and docs: blocks run and print what they say, commands parse, keys, links and paths exist."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
import monai.bundle
import pytest
import torch

from monai_cluster.apps.bundle_files import bundle_root
from monai_cluster.apps.check_overrides import known_keys
from monai_cluster.cli import VERBS, build_parser

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = bundle_root("joint_pretraining")
TASKS = ("segmentation", "detection", "classification")
BUNDLES = [BUNDLE, *(bundle_root(f"{task}_finetuning") for task in TASKS)]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(bundle / "docs" / "README.md" for bundle in BUNDLES),
]
RUN_AS_A_WHOLE = [path for path in DOCUMENTS if re.search(r"^```(python|bash)$", path.read_text(), re.M)]
TOP_LEVEL = ("bundles", "docs", "monai_cluster", "tests", ".ci")
MONAI_VERBS = ("run", "verify_metadata", "verify_net_in_out", "ckpt_export")


class Block(NamedTuple):
    """One fenced block."""

    language: str
    text: str
    line: int


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    ]


def test_the_documents_are_there_and_only_use_known_kinds_of_blocks() -> None:
    assert {"README.md", "method.md", "tutorial.md", "data.md", "bundles.md", "extension.md", "contributing.md"} <= {
        path.name for path in DOCUMENTS
    }
    kinds = {block.language for path in DOCUMENTS for block in blocks_of(path)}
    assert kinds <= {"python", "bash", "console", "json", "csv", "text"}, "python and bash run, console is checked"
    for path in DOCUMENTS:
        assert path.read_text().count("```") == 2 * len(blocks_of(path)), f"{path}: a fence is not closed"


def expected_output(code: str) -> list[str]:
    """The comments behind ``print(...)`` calls."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", code, re.M)


def test_comments_behind_prints_are_recognised() -> None:
    assert expected_output('print(1)  # 1\nx = 2  # no\n    print(f"{x}")  # 2\nprint(3)\n') == ["1", "2"]


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A folder to work in, our commands first on the path, and global states as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    matplotlib.use("Agg")
    deterministic = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield tmp_path
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN_AS_A_WHOLE, ids=name_of)
def test_the_blocks_of_a_document_run_in_order_and_print_what_they_say(path: Path, in_a_folder: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(path):
        where = f"{name_of(path)}, line {block.line}"
        if block.language == "python":
            printed = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec", ast.PyCF_ONLY_AST)
            with contextlib.redirect_stdout(printed):
                exec(compile(code, str(path), "exec"), names)
            lines = printed.getvalue().splitlines()
            # in order, with other lines (such as a log's) between them
            rest = iter(lines)
            missing = [wanted for wanted in expected_output(block.text) if wanted not in rest]
            assert missing == [], f"{where}: not printed in this order; printed was\n" + "\n".join(lines)
        elif block.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text], capture_output=True, text=True, timeout=240, check=False
            )
            assert done.returncode == 0, f"{where}:\n{done.stdout}\n{done.stderr}"


def commands_in(path: Path) -> list[tuple[int, list[str]]]:
    """Words of each single command of the console and bash blocks, with its line."""
    found = []
    for block in blocks_of(path):
        if block.language in ("console", "bash"):
            for command in re.split(r"\n|&&|;|\|", block.text.replace("\\\n", " ")):
                words = shlex.split(command, comments=True)
                if words:
                    found.append((block.line, words))
    return found


ALL_COMMANDS = [(path, line, words) for path in DOCUMENTS for line, words in commands_in(path)]
OUR_COMMANDS = [
    (f"{name_of(path)}:{line}", words[place + 1 :])
    for path, line, words in ALL_COMMANDS
    for place, word in enumerate(words)
    if Path(word).name == "monai-cluster"
]
MONAI_COMMANDS = [
    (f"{name_of(path)}:{line}", words[words.index("monai.bundle") + 1 :])
    for path, line, words in ALL_COMMANDS
    if "monai.bundle" in words
]


def test_the_documents_show_every_verb_and_the_bundles_commands() -> None:
    assert {words[0] for _, words in OUR_COMMANDS} >= set(VERBS)
    assert {words[0] for _, words in MONAI_COMMANDS} == set(MONAI_VERBS)


@functools.cache
def parser_of(verb: str):
    return build_parser(verb)


@pytest.mark.parametrize(("where", "words"), OUR_COMMANDS, ids=[where for where, _ in OUR_COMMANDS])
def test_our_commands_parse_and_set_known_keys(where: str, words: list[str]) -> None:
    options = parser_of(words[0]).parse_args(words)
    bundle = bundle_root(f"{options.task}_finetuning") if hasattr(options, "task") else BUNDLE
    for key, _ in getattr(options, "overrides", None) or ():
        assert key.split("#")[0] in known_keys(bundle), f"{where}: --set {key}"


@pytest.mark.parametrize(("where", "words"), MONAI_COMMANDS, ids=[where for where, _ in MONAI_COMMANDS])
def test_monai_bundle_commands_name_known_keys_and_existing_files(where: str, words: list[str]) -> None:
    arguments = set(inspect.signature(getattr(monai.bundle, words[0])).parameters) - {"override", "kwargs"}
    given = [word for word in words[1:] if word.startswith("--")]
    assert given, f"{where}: {words[0]} without options"
    named = re.findall(r"bundles/(\w+)/", " ".join(words))
    bundle = bundle_root(named[0]) if named else BUNDLE
    assert len(set(named)) <= 1, f"{where}: files of several bundles"
    for option in given:
        key = option.removeprefix("--").split("=")[0].replace("::", "#").split("#")[0]
        assert key in arguments or key in known_keys(bundle), f"{where}: {option}"
    for name in ("--config_file", "--meta_file", "--bundle_root"):
        if name in words:
            value = words[words.index(name) + 1]
            for file in ast.literal_eval(value) if value.startswith("[") else [value]:
                assert (ROOT / file).exists(), f"{where}: {file}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_and_repository_paths_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    gone = [link for link in links if not (path.parent / link.split("#")[0]).exists()]
    for link in links:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if anchor and target.exists():
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            gone += [] if anchor in slugs else [link]
    quoted = re.findall(rf"`((?:{'|'.join(map(re.escape, TOP_LEVEL))})/[\w./-]*)`", text)
    gone += [quote for quote in quoted if not (ROOT / quote).exists()]
    assert gone == []


def cell(value: object) -> str:
    """A setting as the table writes it."""
    if isinstance(value, dict) and "_target_" in value:
        return f"`{str(value['_target_']).split('.')[-1]}`"
    if isinstance(value, (dict, list)):
        return "see below"
    return "computed" if isinstance(value, str) and value.startswith(("$", "@")) else f"`{json.dumps(value)}`"


def test_the_table_of_bundle_keys_has_every_key_with_its_default_and_presets() -> None:
    files = {
        name: json.loads((BUNDLE / "configs" / f"{name}.json").read_text()) for name in ("train", "cpu", "gpu", "paper")
    }
    text = (ROOT / "docs" / "bundles.md").read_text()
    rows = {
        cells[0].strip("`"): cells[1:5]
        for line in text.splitlines()
        if line.startswith("| `") and len(cells := [part.strip() for part in line.strip("|").split("|")]) == 6
    }
    assert sorted(rows) == sorted(set(files["train"])), "one row for each top-level key of train.json"
    wrong = []
    for key, cells in rows.items():
        for said, (name, content) in zip(cells, files.items(), strict=True):
            if said != (wanted := cell(content[key]) if key in content else ""):
                wrong.append(f"{key}, column {name}: the table says {said!r}, the file {wanted!r}")
    assert wrong == []


def finetuning_cell(content: dict[str, object], key: str) -> str:
    """A setting as the tables of the fine-tuning bundles write it: they show lists of numbers too."""
    if key not in content:
        return "–"
    value = content[key]
    if isinstance(value, list) and all(isinstance(item, (int, float)) for item in value):
        return f"`{json.dumps(value)}`"
    return cell(value)


def table_under(header: str) -> dict[str, list[str]]:
    """Cells between key and meaning, of the table with this header."""
    text = (ROOT / "docs" / "bundles.md").read_text()
    assert text.count(f"\n{header}\n") == 1, header
    table = text.split(f"\n{header}\n")[1].split("\n\n")[0].splitlines()[1:]
    rows = [[part.strip() for part in line.strip("|").split(" | ")] for line in table]
    keys = [cells[0].strip("`") for cells in rows]
    assert len(keys) == len(set(keys)), "a key stands twice"
    return dict(zip(keys, [cells[1:-1] for cells in rows], strict=True))


def settings_of(task: str, config: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((bundle_root(f"{task}_finetuning") / f"configs/{config}.json").read_text())
    return content


def test_the_table_of_fine_tuning_keys_has_every_key_of_the_three_bundles_with_its_default() -> None:
    contents = [settings_of(task, "train") for task in TASKS]
    rows = table_under("| key | segmentation | detection | classification | meaning |")
    assert set(rows) == {key for content in contents for key in content}
    assert rows == {key: [finetuning_cell(content, key) for content in contents] for key in rows}


def test_the_table_of_inference_and_evaluation_keys_has_every_key_with_its_default() -> None:
    rows = table_under("| key | `inference` | `evaluate` | meaning |")
    contents = [settings_of("segmentation", config) for config in ("inference", "evaluate")]
    assert set(rows) == {key for content in contents for key in content}
    assert rows == {key: [finetuning_cell(content, key) for content in contents] for key in rows}
    for task in TASKS[1:]:
        for place, config in enumerate(("inference", "evaluate")):
            content = settings_of(task, config)
            wanted = {key: rows[key][place] for key in content if key != "prediction_settings"}
            assert {key: finetuning_cell(content, key) for key in wanted} == wanted, f"{task}, {config}"
