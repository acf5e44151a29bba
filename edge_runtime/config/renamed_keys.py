"""Renames config keys: the old name is accepted for one version, with a warning.

An update must not stop a board whose config was written for the version before. Add a key to `RENAMED` when you
rename it; remove it with the next version.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from split_model.errors import ConfigError
from split_model.service.config_file import Layers

#: Old key path -> new key path, as ``table.key``, both in the same table. A table that the config gives as a list,
#: as ``[[source]]``, is renamed in every entry.
RENAMED: Mapping[str, str] = {
    "device.rest_memory_mb": "device.local_tail_memory_mb",
    "release.words": "release.codewords",
}


def with_new_names(layers: Layers, renamed: Mapping[str, str] = RENAMED) -> tuple[Layers, tuple[str, ...]]:
    """Replace old key names by the new ones.

    Args:
        layers: The config as the files say it.
        renamed: New key path for each old one.

    Returns:
        The config under the new names, each value still from the file that holds it, and one line of warning for
        each old name that was found.

    Raises:
        ConfigError: A table has a key under both names.

    """
    tree, origins = copy.deepcopy(layers.tree), dict(layers.origins)
    warnings = []
    for old, new in renamed.items():
        table, _, old_name = old.rpartition(".")
        new_name = new.rpartition(".")[2]
        where = layers.where(old)
        holders = [entry for entry in _entries(tree, table) if old_name in entry]
        for holder in holders:
            if new_name in holder:
                raise ConfigError(
                    f"{where}: {old} is the old name of {new}, which is set too ({layers.where(new)})",
                    remedy=f"leave {old} out",
                )
            # In the old key's place: `config show` and errors keep the order of the file.
            items = [(new_name if name == old_name else name, value) for name, value in holder.items()]
            holder.clear()
            holder.update(items)
        if holders:
            warnings.append(f"{where}: {old} is now called {new}; rename it, the next version refuses the old name")
        if old in origins:
            origins[new] = origins.pop(old)
    return replace(layers, tree=tree, origins=origins), tuple(warnings)


def _entries(tree: dict[str, Any], table: str) -> list[dict[str, Any]]:
    """The tables at a path: none, one, or several for a list. The parser refuses other shapes."""
    found: Any = tree
    for name in table.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    entries = found if isinstance(found, list) else [found]
    return [entry for entry in entries if isinstance(entry, dict)]
