"""The properties: what must hold of an attention, a rotary or a sinusoidal encoding, one plain function each.

Each can be called alone: ``check_future_does_not_leak(my_attention)`` returns, raises AssertionError where the property
does not hold, or :class:`regard.check.Unsupported` where it does not apply.
"""

from __future__ import annotations

from regard.check.properties.algebra import *  # noqa: F403
from regard.check.properties.answers import *  # noqa: F403
from regard.check.properties.causality import *  # noqa: F403
from regard.check.properties.compiled import *  # noqa: F403
from regard.check.properties.empty import *  # noqa: F403
from regard.check.properties.fuzz import *  # noqa: F403
from regard.check.properties.gradients import *  # noqa: F403
from regard.check.properties.masks import *  # noqa: F403
from regard.check.properties.modes import *  # noqa: F403
from regard.check.properties.numbers import *  # noqa: F403
from regard.check.properties.parts import *  # noqa: F403
from regard.check.properties.positions import *  # noqa: F403
from regard.check.properties.rotary import *  # noqa: F403
from regard.check.properties.weights import *  # noqa: F403
