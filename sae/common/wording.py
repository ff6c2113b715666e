"""Numbers and times as people read them."""

from datetime import UTC, datetime


def count(number: int | float) -> str:
    """A whole number with separators."""
    return f"{number:,.0f}"


def counted(number: int, one: str) -> str:
    """So many of something: 1 shard, 2 shards."""
    return f"{count(number)} {one}{'' if number == 1 else 's'}"


def percent(number: int | float | None) -> str:
    """A fraction of 1 in percent, and a dash for one that has no meaning."""
    return "\N{EN DASH}" if number is None else f"{100 * number:.1f}%"


def with_error(number: float, error: float | None, digits: int) -> str:
    """A figure with so many decimals and its standard error if that is known: 0.308 ± 0.012."""
    shown = f"{number:.{digits}f}"
    return shown if error is None else f"{shown} ± {error:.{digits}f}"


def duration(seconds: int | float) -> str:
    """Seconds as 3.2 s, 4:05 or 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(n_bytes: int | float) -> str:
    """Bytes in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def utc_now() -> str:
    """Now in UTC, to the second: 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
