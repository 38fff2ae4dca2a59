"""Where the files of a Hugging Face model are: a folder, the local cache, or the hub; and what they must hold."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from regard.look.wording import one_line

__all__ = ["Place", "is_folder", "quietly", "resolve", "short", "transformers_module"]

#: The file of weights that is read, and the list of files if there are several.
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

#: How the names of files end that run code when they are read, or may.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")

#: A name of the hub: one of its own, or an owner's.
NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")

#: The hub has no longer names.
LONGEST_NAME = 96

#: Unless it is set, transformers asks a service to turn a model's pickles into safetensors.
CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"

EXPECTED = (
    "expected 'demo', the model that comes with regard, or a folder with one (python -m regard.demo.train makes them; "
    "save_pretrained of transformers does), or the name of a Hugging Face model"
)


@dataclass(frozen=True)
class Place:
    """Where a model is.

    Attributes:
        name: as the user wrote it.
        where: what transformers is to load: a folder, or a name of the hub.
        local: whether everything is on this machine.
        raw: what its config.json says; nothing for a model on the hub.
    """

    name: str
    where: str
    local: bool
    raw: dict[str, Any]


def transformers_module() -> Any:
    """The package transformers.

    Raises:
        ImportError: it is not installed; the message names the extra to install.
    """
    try:
        return import_module("transformers")
    except ImportError as error:
        raise ImportError(
            "regard look --model needs transformers for a Hugging Face model: pip install 'regard[hf]'",
            name="transformers",
        ) from error


def resolve(name: str) -> Place:
    """Where the model of that name is: in a folder, in the cache, or on the hub, in this order.

    What is in the cache is taken as it is, without a question to the hub: a look needs no network then.

    Args:
        name: a folder or a name of the hub.

    Returns:
        The place; its config.json and safetensors exist.

    Raises:
        ValueError: there is none, or it has no weights that can be read safely.
        ImportError: transformers is not installed.
    """
    folder = Path(name)
    if name and is_folder(name):
        return _in_folder(name, folder)
    if len(name) > LONGEST_NAME:
        shown = f"{name[:40]}…" if os.sep not in name else name
        raise ValueError(
            f"--model is {shown!r}, of {len(name):,} characters, but no folder of that name exists, and a name on the "
            f"hub has at most {LONGEST_NAME}; {EXPECTED}"
        )
    if folder.is_file():
        raise ValueError(f"--model is {name!r}, a file; expected the folder that it is in, with its config.json")
    if not NAME.fullmatch(name) or ".." in name:
        looks = "no folder of that name exists" if name and (os.sep in name or name.startswith((".", "~"))) else ""
        raise ValueError(f"--model is {name!r}{', but ' + looks if looks else ''}; {EXPECTED}")
    transformers_module()
    cached = import_module("huggingface_hub").try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str) and not _problem(Path(cached).parent):
        return _in_folder(name, Path(cached).parent)
    return _on_hub(name)


def is_folder(name: str) -> bool:
    """Whether there is a folder of that name; no name is too long to be asked for."""
    try:
        return Path(name).is_dir()
    except OSError:
        return False


def _in_folder(name: str, folder: Path) -> Place:
    files = _names(folder)
    if "config.json" not in files:
        adapter = "adapter_config.json" in files
        fix = "it is an adapter: merge it into its model, and save that" if adapter else "save_pretrained writes one"
        raise ValueError(f"--model is {name!r}, a folder without config.json; {fix}")
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--model is {name!r}, but its config.json is damaged: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"--model is {name!r}, but its config.json is no JSON object; save_pretrained writes one")
    if problem := _problem(folder):
        raise ValueError(f"--model is {name!r}, but {problem}")
    return Place(name, str(folder), True, raw)


def _on_hub(name: str) -> Place:
    hub = import_module("huggingface_hub")
    errors = import_module("huggingface_hub.errors")
    try:
        with quietly():
            info = hub.HfApi().model_info(name, timeout=15)
    except errors.GatedRepoError as error:
        raise ValueError(
            f"--model is {name!r}, which its owners show to some only: ask for access on its page, then hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"--model is {name!r}, but there is no folder and no public Hugging Face model of that name "
            f"(a private one needs hf auth login); {EXPECTED}"
        ) from error
    except Exception as error:  # whatever a network does: no name service, a proxy, a limit, offline mode
        raise ValueError(
            f"--model is {name!r}: no folder has that name, it is not in the cache of Hugging Face models "
            f"({one_line(hub.constants.HF_HUB_CACHE)}), and the hub cannot be asked ({type(error).__name__}); "
            + EXPECTED
        ) from error
    files = {file.rfilename for file in info.siblings or ()}
    if "config.json" not in files:
        raise ValueError(f"--model is {name!r}, which has no config.json; expected a model of the transformers library")
    problem = _missing(files)
    if not problem and WEIGHTS not in files:
        try:
            with quietly():
                index = Path(hub.hf_hub_download(name, INDEX))
        except Exception as error:
            raise ValueError(
                f"--model is {name!r}, whose {INDEX} cannot be had from the hub ({short(error)})"
            ) from error
        problem = _wrong_index(index, files)
    if problem:
        raise ValueError(f"--model is {name!r}, but {problem}")
    return Place(name, name, False, {})


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _problem(folder: Path) -> str:
    """Why the weights in a folder cannot be read safely, in words, or "" if they can."""
    files = _names(folder)
    return _missing(files) or ("" if WEIGHTS in files else _wrong_index(folder / INDEX, files))


def _wrong_index(index: Path, files: set[str]) -> str:
    """Why the files that an index names may not be read, or "" if all are safetensors beside it."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {INDEX} is damaged ({type(error).__name__}); model.save_pretrained(folder) writes one"
    for file in dict.fromkeys(map(str, named)):
        shown = one_line(file)
        if file.endswith(PICKLES):
            return _pickled(shown)
        if "/" in file or "\\" in file or not file.endswith(".safetensors"):
            return f"its {INDEX} names {shown!r}; expected files beside it that end in .safetensors"
        if file not in files:
            return f"its {INDEX} names {shown!r}, which is not there; expected a whole model"
    return "" if named else f"its {INDEX} names no file; model.save_pretrained(folder) writes one"


def _pickled(file: str) -> str:
    return (
        f"its weights are in {file}, which may run code when it is read; regard look reads "
        "safetensors alone: if you trust it, load and save it with transformers, model.save_pretrained(folder)"
    )


def _missing(files: set[str]) -> str:
    """Why there are no weights to be read, in words, or "" if there are."""
    if not files.isdisjoint((WEIGHTS, INDEX)):
        return ""
    unsafe = sorted(file for file in files if file.endswith(PICKLES) and file != "training_args.bin")
    if unsafe:
        return _pickled(one_line(unsafe[0]))
    other = sorted(file for file in files if file.endswith((".safetensors", ".gguf")))
    found = f" ({one_line(other[0])} is read by other programs)" if other else ""
    return f"it has no weights{found}; expected model.safetensors, as model.save_pretrained(folder) writes it"


def short(error: Exception) -> str:
    """The first sentence or so of what a library says."""
    text = one_line(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"


@contextmanager
def quietly() -> Iterator[None]:
    """What the libraries would say while they work, but for their bars of progress where a terminal shows them.

    Their settings are put back. Nothing is sent to be converted to safetensors by others.
    """
    hub, logging = import_module("huggingface_hub.utils"), import_module("transformers.utils.logging")
    bars, hub_bars = logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    levels = [(each, each.get_verbosity()) for each in (logging, hub.logging)]
    conversion = os.environ.get(CONVERSION)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for each, _ in levels:
                each.set_verbosity_error()
            os.environ[CONVERSION] = "1"
            if sys.stderr is None or not sys.stderr.isatty():
                logging.disable_progress_bar()  # those of the hub too
            yield
        finally:
            for each, level in levels:
                each.set_verbosity(level)
            if conversion is None:
                del os.environ[CONVERSION]
            else:
                os.environ[CONVERSION] = conversion
            if bars:
                logging.enable_progress_bar()
            if not hub_bars:
                hub.disable_progress_bars()
