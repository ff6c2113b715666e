"""A repository of the hub in memory: commits, branches and tags, and the hashes of files."""

import hashlib
from dataclasses import dataclass, field

LARGE = (".safetensors", ".npz", ".npy", ".pt", ".parquet", ".bin")
"""Endings of the files that the hub stores by LFS."""

Files = dict[str, bytes]


@dataclass
class Repository:
    """One repository: its commits by their hash, and which of them its branches and tags are."""

    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set[str])
    commits: dict[str, Files] = field(default_factory=dict[str, Files])
    messages: list[str] = field(default_factory=list[str])
    branches: dict[str, str] = field(default_factory=dict[str, str])
    tags: dict[str, str] = field(default_factory=dict[str, str])

    def commit(self, files: Files, branch: str = "main", message: str = "") -> str:
        """Let the branch have exactly these files; gives the hash of the commit."""
        self.messages.append(message)
        sha = hashlib.sha1(f"{len(self.messages)} {sorted(files)}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The hash of the commit that a branch, a tag or a hash names."""
        known = self.branches | self.tags | {sha: sha for sha in self.commits}
        return known.get(revision)

    def files(self, revision: str = "main") -> Files:
        """The files of a branch, tag or commit."""
        sha = self.resolve(revision)
        assert sha is not None
        return self.commits[sha]


def git_oid(content: bytes) -> str:
    """The hash by which git, and the hub's tree, know a small file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    """The hash by which LFS knows a large file."""
    return hashlib.sha256(content).hexdigest()
