"""Calendar arithmetic of whole columns: days to years, months and days, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[Any]


def civil_from_days(days: Ints) -> tuple[Ints, Ints, Ints]:
    """Year, month and day of the month of days since 1970, in the proleptic Gregorian calendar.

    The algorithm is Howard Hinnant's ("chrono-compatible low-level date algorithms"): years begin in March, so that
    the leap day is their last.

    >>> [part.tolist() for part in civil_from_days(np.array([-1, 0, 59]))]
    [[1969, 1970, 1970], [12, 1, 3], [31, 1, 1]]
    """
    shifted = days + 719_468
    era = shifted // 146_097
    of_era = shifted - era * 146_097
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    late = (month >= 10).astype(days.dtype)  # January and February belong to the next year
    return year + era * 400 + late, month + 3 - 12 * late, day


def days_from_civil(year: Ints, month: Ints, day: Ints) -> Ints:
    """Days since 1970 of a date; the inverse of `civil_from_days`.

    >>> days_from_civil(np.array([1970]), np.array([3]), np.array([1])).tolist()
    [59]
    """
    shifted = year - (month <= 2)
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days: Ints = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    return days


def add_months(days: Ints, months: Ints | int) -> Ints:
    """Days moved by months; a day that the month does not have becomes its last.

    >>> add_months(np.array([30]), 1).tolist()  # 31 January to 28 February
    [58]
    """
    year, month, day = civil_from_days(days)
    index = year * 12 + (month - 1) + months
    year, month = index // 12, index % 12 + 1
    first = days_from_civil(year, month, np.ones_like(day))
    following = index + 1
    last = days_from_civil(following // 12, following % 12 + 1, np.ones_like(day)) - 1
    moved: Ints = np.minimum(first + day - 1, last)
    return moved
