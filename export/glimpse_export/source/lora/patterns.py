"""Regular expressions of somebody else, matched against module names without the risk of never coming back.

Python's engine backtracks, and a pattern such as ``(a+)+b`` takes for ever on a name that does not match. A running
match cannot be stopped, so patterns that could do that are matched in a process of their own, within a limit.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache

from glimpse_export.errors import UnsupportedError

_SECONDS = 20
# Without repetition and alternatives there is nothing to try twice.
_HARMLESS = re.compile(r"[^*+?{(|]*")
_MATCH = "import json,re,sys; p,n=json.load(sys.stdin); print(json.dumps([x for x in n if re.fullmatch(p,x)]))"


@cache
def matching(pattern: str, names: tuple[str, ...], where: str, ends: bool = False) -> frozenset[str]:
    """Returns the names that a pattern matches as a whole.

    Args:
        pattern: a regular expression that compiles.
        names: what to match.
        where: what to call the file that has it in errors.
        ends: the whole of a name's end, behind a point, is enough.

    Raises:
        UnsupportedError: it takes too long.
    """
    whole = rf"(.*\.)?({pattern})" if ends else pattern
    if _HARMLESS.fullmatch(pattern):
        return frozenset(name for name in names if re.fullmatch(whole, name))
    return frozenset(_apart(whole, names, where))


def _apart(pattern: str, names: Sequence[str], where: str) -> list[str]:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _MATCH],
            input=json.dumps([pattern, list(names)]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedError(
            f"{where}: the pattern {pattern[:60]!r} takes more than {_SECONDS} s to match; name the modules instead"
        ) from None
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnsupportedError(f"{where}: the pattern {pattern[:60]!r} cannot be matched ({error})") from None
    found: list[str] = json.loads(done.stdout)
    return found
