"""A mirror on disk: one JSON file for each skill, and how far the feed was followed.

``skills/`` is the whole mirror, ``walk/`` one that is being made anew beside it; it takes the place
of the other only when it is whole. Each file is replaced in one step. ``_state.json``, which no
slug is called, is written behind the files that it tells of, so that a run that was cut off goes on
from before them.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from cli.errors import UsageProblem

WHOLE: Final = "skills"
CONTENT: Final = "content"
_WALK: Final = "walk"
_REPLACED: Final = "replaced"
_STATE: Final = "_state.json"
_LISTED: Final = "LISTED"
_MODULUS: Final = 2**64


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How far the feed was followed, and of which generation."""

    generation: str
    next: int


class SkillFiles:
    """One folder of files, and what was read of them: by slug the identity and the part that the
    skill has in the fingerprint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._held: dict[str, tuple[str, int]] = {}
        self._names: dict[str, str] = {}
        for path in sorted(folder.glob("*.json")):
            if path.name != _STATE:
                self._read(path)

    @property
    def state(self) -> State | None:
        """None: nothing was followed, or it cannot be read."""
        try:
            return msgspec.json.decode((self.folder / _STATE).read_bytes(), type=State)
        except (OSError, ValueError):
            return None

    def save(self, state: State) -> None:
        write(self.folder / _STATE, msgspec.json.encode(state))

    def put(self, item: Mapping[str, Any]) -> None:
        """Keep a skill as it is now, under its slug alone."""
        name, identity = item["name"], item["identity"]
        before = self._names.get(identity)
        if before is not None and before != name:
            self._held.pop(before, None)
            (self.folder / f"{before}.json").unlink(missing_ok=True)
        write(self.folder / f"{name}.json", json.dumps(item, ensure_ascii=False).encode())
        self._hold(item)

    def fingerprint(self) -> dict[str, Any]:
        """As the marketplace tells it."""
        total = sum(part for _, part in self._held.values())
        return {"count": len(self._held), "digest": f"{total % _MODULUS:016x}"}

    def items(self) -> Iterator[dict[str, Any]]:
        """What is kept, by slug."""
        for name in sorted(self._held):
            yield json.loads((self.folder / f"{name}.json").read_bytes())

    def _read(self, path: Path) -> None:
        try:
            item = json.loads(path.read_bytes())
        except ValueError:
            item = None
        if not isinstance(item, dict) or check_item(item) or f"{item['name']}.json" != path.name:
            self.damaged.append(path.name)
        else:
            self._hold(item)

    def _hold(self, item: Mapping[str, Any]) -> None:
        name, identity = item["name"], item["identity"]
        other = self._held.get(name)
        if other is not None and other[0] != identity:
            self._names.pop(other[0], None)  # it had to leave the slug, and comes with another
        self._held[name] = (identity, _part(item))
        self._names[identity] = name


class MirrorFolder:
    """A folder with a mirror in it. Raises UsageProblem for one that is anything else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise UsageProblem(f"{folder} is no folder")
        known = {WHOLE, CONTENT, _WALK, _REPLACED}
        if folder.is_dir() and any(each.name not in known for each in folder.iterdir()):
            raise UsageProblem(f"{folder} holds other things than a mirror")
        self._finish_replacing()

    def whole(self) -> SkillFiles | None:
        """The mirror, if it was ever whole."""
        return SkillFiles(self.folder / WHOLE) if (self.folder / WHOLE).is_dir() else None

    def walk(self) -> SkillFiles:
        """The one that is being made anew, as far as it is."""
        (self.folder / _WALK).mkdir(parents=True, exist_ok=True)
        return SkillFiles(self.folder / _WALK)

    def begin_walk(self) -> SkillFiles:
        """One to make anew, empty."""
        shutil.rmtree(self.folder / _WALK, ignore_errors=True)
        return self.walk()

    def take_over(self) -> SkillFiles:
        """Let the walk, which is whole, take the place of what there was."""
        whole, replaced = self.folder / WHOLE, self.folder / _REPLACED
        if whole.exists():
            whole.rename(replaced)
        (self.folder / _WALK).rename(whole)
        shutil.rmtree(replaced, ignore_errors=True)
        return SkillFiles(whole)

    def _finish_replacing(self) -> None:
        """What an earlier run was killed in."""
        whole, replaced = self.folder / WHOLE, self.folder / _REPLACED
        if replaced.exists() and not whole.exists():
            replaced.rename(whole)  # the walk is there, and is taken over again
        shutil.rmtree(replaced, ignore_errors=True)


def is_mirror(folder: Path) -> bool:
    """Whether there is a whole mirror in it."""
    return (folder / WHOLE / _STATE).is_file()


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step: whole, or as before."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_bytes(content)
    beside.replace(path)


def check_item(item: Mapping[str, Any]) -> str:
    """What is wrong with an item of the feed; empty for nothing."""
    try:
        name = item["name"]
        if not isinstance(name, str) or not name.replace("-", "").isalnum() or not name.isascii():
            return f"{name!r:.80} is no slug"
        told = {key: value for key, value in item.items() if key not in ("number", "digest")}
        text = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(text.encode()).hexdigest() != item["digest"]:
            return f"the digest of {name} is another one"
        _part(item)
        item["identity"], item["aliases"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"an item lacks {error}"
    return ""


def _part(item: Mapping[str, Any]) -> int:
    shown = item["revision"] if item["status"] == _LISTED else item["status"]
    digest = hashlib.sha256(f"{item['name']} {shown}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
