"""Numbers, durations and spellings in words, for messages and screens; and what no message may hold."""

import difflib
import netrc
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def counted(number: int, noun: str) -> str:
    """`1 text`, `18,000 texts`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """`48 s`, `7 min 19 s`, `3 h 5 min`: the two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """A duration that is only estimated: `about 50 s`, `about 7 min`, `about 3 h 10 min`."""
    if seconds < 55:
        return f"about {max(5 * round(seconds / 5), 5)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {max(minutes, 1)} min"
    hours, rest = divmod(10 * round(seconds / 600), 60)
    return f"about {hours} h" + (f" {rest} min" if rest else "")


def size(number_of_bytes: int) -> str:
    """`90 MB`, `1.3 GB`; a thousand is 1,000."""
    return f"{number_of_bytes / 1e9:.1f} GB" if number_of_bytes >= 1e9 else f"{max(round(number_of_bytes / 1e6), 1)} MB"


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean WORD?)`, with the known word that is spelled most like it; empty where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def some(items: Iterable[object], shown: int = 5) -> str:
    """The first few of many: `2, 7, 9 and 12 more`."""
    words = [str(item) for item in items]
    more = f" and {len(words) - shown:,} more" if len(words) > shown else ""
    return ", ".join(words[:shown]) + more


def signed(points: float) -> str:
    """Points of a difference to one digit: `+1.2`, and never `-0.0`."""
    return f"{round(points, 1) + 0.0:+.1f}"


def first_line(error: Exception) -> str:
    """What an error of a library says, up to the end of its first line; without secrets."""
    return without_secrets(str(error).strip().split("\n")[0])


def kind_and_words(error: BaseException) -> str:
    """`ValueError: no such thing`; without secrets."""
    return without_secrets(f"{type(error).__name__}: {error}")


SECRET_NAMES = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|(^|_)PAT$", re.IGNORECASE)
SHORTEST_SECRET = 8
PASSWORD_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@\[]+(?=@)")


def without_secrets(text: str) -> str:
    """A text less keys and passwords: a library's error may quote one.

    They are those of environment variables with such names, of the netrc file and of the hub's token file, and those
    in addresses such as `https://somebody:password@host`.
    """
    for value, name in sorted(secrets_at_hand().items(), key=lambda found: -len(found[0])):
        text = text.replace(value, f"[{name}]")
    return PASSWORD_IN_ADDRESS.sub("[password]", text)


def secrets_at_hand() -> dict[str, str]:
    """Keys that libraries of this process may use, each with the name of where it stands."""
    found = {value: name for name, value in os.environ.items() if SECRET_NAMES.search(name)}
    with suppress(OSError, netrc.NetrcParseError):
        hosts = netrc.netrc(os.environ.get("NETRC") or Path.home() / ".netrc").hosts
        found |= {password: "netrc" for _, _, password in hosts.values() if password}
    home = os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface"
    with suppress(OSError, UnicodeDecodeError):
        found[Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token").read_text().strip()] = "token of the hub"
    return {value: name for value, name in found.items() if len(value) >= SHORTEST_SECRET}
