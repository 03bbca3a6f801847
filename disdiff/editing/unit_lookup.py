"""Which units a name means: an index, a name that discovery gave, or the factor that units carry.

The factors that units carry are what the evaluation found (importance of each unit for each factor, DCI).
Names that discovery gave are those of the units it calls named in `discovery.json`.
"""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from disdiff.editing.unit_names import STRONG
from disdiff.method.model import check_units
from ldm.errors import UserError
from ldm.numbers import is_whole, show

DISCOVERY = "discovery.json"


@dataclass(frozen=True)
class UnitTable:
    """What is known of N units.

    Attributes:
        num_units: N.
        factor_names: of the data set; empty without labels.
        importance: of each unit for each factor, shape (N, F); None without scores.
        given: name of each unit, or None where it has none; empty when nothing named them.
    """

    num_units: int
    factor_names: Sequence[str] = ()
    importance: np.ndarray | None = None
    given: Sequence[str | None] = ()

    def find(self, unit: int | str) -> list[int]:
        """Units that `unit` means (a whole number of any type, or a name), the strongest first.

        A text that is a whole number as one writes it (`7`, not `007`) is an index before it is a name. A
        factor that was evaluated means the units that carry it more than any other factor; where there are
        none, the one unit that matters most for it.

        Raises:
            UserError: there is no unit of that index or name, or it is neither.
        """
        if is_whole(unit):
            return check_units([operator.index(unit)], self.num_units)
        if not isinstance(unit, str):
            raise UserError(f"{show(unit)} is no unit; {self.describe_choice()}")
        if re.fullmatch(r"[-+]?(0|[1-9]\d{,17})", unit.strip(), re.ASCII):
            return check_units([int(unit)], self.num_units)
        wanted = unit.strip().casefold()
        factors = [name.casefold() for name in self.factor_names]
        if wanted not in factors or self.importance is None:
            named = [k for k, name in enumerate(self.given) if name and name.casefold() == wanted]
            if named:
                return named
            if re.fullmatch(r"\d{1,18}", wanted, re.ASCII):
                return check_units([int(wanted)], self.num_units)
            raise UserError(f"no unit is called {unit!r}; {self.describe_choice()}")
        column = np.asarray(self.importance, dtype=float)[:, factors.index(wanted)]
        own = np.asarray(self.importance).argmax(axis=1) == factors.index(wanted)
        order = np.argsort(-column, kind="stable").tolist()
        return [k for k in order if own[k] and column[k] >= STRONG] or order[:1]

    def describe_choice(self) -> str:
        """What may be given instead of a name that is none."""
        names = [name for name in self.given if name]
        names += list(self.factor_names) if self.importance is not None else []
        numbers = f"a number from 0 to {self.num_units - 1}"
        if not names:
            return f"give {numbers}: this run has no scores that could name them"
        return f"give {numbers}, or one of: {', '.join(dict.fromkeys(names))}"
