"""Opens what a path names: a git repository, a folder, or an archive."""

from dataclasses import dataclass
from pathlib import Path

from scanner.archives import read_archive
from scanner.folders import FolderTree
from scanner.git import CommitTree, find_commit, is_repository
from scanner.tree import Tree, Unreadable


@dataclass(frozen=True, slots=True)
class Source:
    """A tree and, of a repository, its commit and branch."""

    tree: Tree
    commit: str | None = None
    ref: str | None = None


def open_source(
    path: Path,
    *,
    commit: str | None = None,
    as_it_lies: bool = False,
    root: str | None = None,
) -> Source:
    """What a path holds. Of a repository that is a commit, the head's unless another is named;
    with ``as_it_lies`` its files as they lie in the work tree. ``root`` is the folder of an archive
    that holds the repository. Raises Refused, Unreadable."""
    if path.is_file():
        tree = read_archive(path)
        return Source(tree if root is None else tree.below(root), commit)
    if not path.is_dir():
        raise Unreadable(f"there is no {path}")
    if is_repository(path) and not as_it_lies:
        found = find_commit(path, commit)
        return Source(CommitTree(path, found), found.id, found.branch)
    return Source(FolderTree(path), commit)
