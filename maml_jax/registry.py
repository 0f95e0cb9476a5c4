"""Tables of named entries that users can extend without editing the package."""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A table from names to entries, in order.

    Args:
      kind: the kind of entry, as it is called in messages: "inner optimizer".
      entries: the entries of the package, which cannot be replaced.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        """Starts with the entries of the package."""
        self.kind = kind
        self._built_in = frozenset(entries)
        self._entries = dict(entries)

    def register(self, name: str, entry: T) -> None:
        """Adds an entry; a name of your own that is there already gets the new entry.

        Raises:
          ValueError: the name is empty, has other characters than letters, digits and
            underscores, or belongs to the package.
        """
        if not name.isidentifier():
            raise ValueError(
                f"{name!r} cannot name a {self.kind}; use letters, digits and underscores"
            )
        if name in self._built_in:
            raise ValueError(f"the {self.kind} {name!r} is part of maml_jax; use another name")
        self._entries[name] = entry

    def find(self, name: str) -> T:
        """The entry of this name.

        Raises:
          ValueError: there is none; the message lists the names.
        """
        if name not in self._entries:
            raise ValueError(f"{self.kind} {name!r} is unknown; choose from {', '.join(self)}")
        return self._entries[name]

    def is_built_in(self, name: str) -> bool:
        """Whether an entry is part of the package."""
        return name in self._built_in

    def __getitem__(self, name: str) -> T:
        """The entry of this name; KeyError if there is none."""
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._entries)
