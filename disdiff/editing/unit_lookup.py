"""Look up units by index, by a name from discovery, or by the factor that they encode.

Which factor a unit encodes follows from the evaluation (DCI importance of each unit for each factor). Names
from discovery are those of the units that `discovery.json` marks as named.
"""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from disdiff.editing.unit_names import find_units_of
from disdiff.method.model import check_units
from ldm.errors import UserError
from ldm.numbers import is_whole, show

DISCOVERY = "discovery.json"


@dataclass(frozen=True)
class UnitTable:
    """Names and importances of N units.

    Attributes:
        num_units: N.
        factor_names: names of the data set's factors; empty without labels.
        importance: importance of each unit for each factor, shape (N, F); None without scores.
        given: name of each unit from discovery, None for an unnamed unit; empty without a discovery.
    """

    num_units: int
    factor_names: Sequence[str] = ()
    importance: np.ndarray | None = None
    given: Sequence[str | None] = ()

    def find(self, unit: int | str) -> list[int]:
        """Find the units that match an index (an integer of any type) or a name, the strongest first.

        A text that is a plain integer (`7`, not `007`) is read as an index first. The name of an evaluated
        factor matches its units (`find_units_of`).

        Raises:
            UserError: there is no unit of that index or name, or `unit` has another type.
        """
        if is_whole(unit):
            return check_units([operator.index(unit)], self.num_units)
        if not isinstance(unit, str):
            raise UserError(f"{show(unit)} is not a unit; {self.describe_choice()}")
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
            raise UserError(f"no unit has the name {unit!r}; {self.describe_choice()}")
        return find_units_of(self.importance, factors.index(wanted))

    def describe_choice(self) -> str:
        """The valid indices and names, as the end of an error message."""
        names = [name for name in self.given if name]
        names += list(self.factor_names) if self.importance is not None else []
        numbers = f"a number from 0 to {self.num_units - 1}"
        if not names:
            return f"give {numbers}, because this run has no scores to name units"
        return f"give {numbers}, or one of: {', '.join(dict.fromkeys(names))}"
