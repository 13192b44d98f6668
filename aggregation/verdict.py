"""What a stage says about each update, beside the aggregate it helps to compute.

Owns the type alone. What the numbers mean is defined by the stage that fills them in.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """A stage's judgement of n updates, in the order the updates were given.

    Attributes
    ----------
    scores : tuple of int, (n,)
        Contribution scores with 16 fraction bits, in +-2^31.
    set_aside : tuple of bool, (n,)
        True for an update that the stage gave no weight, or clearly less than its share.
    """

    scores: tuple[int, ...]
    set_aside: tuple[bool, ...]
