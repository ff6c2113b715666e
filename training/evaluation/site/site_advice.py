"""What to leave out before training at a site: sentences, each with the figures that it rests on.

Imports no torch.
"""

from collections.abc import Sequence

from ....sae.common.text import visible
from ....sae.common.wording import count, counted
from .site_findings import Carriers, CoordinateFigures, SiteFindings, TokenCount

_HEAVY = 0.1
"""Part of the mean squared norm from which on a coordinate weighs on a loss, unless rows are so
narrow that ten times an equal part is more."""
_MOST_HEAVY = 0.5
_LARGE = 2.0
"""Times the median norm from which on the median of special positions is of no ordinary rows."""
_SAME = 0.02
"""How far a ratio of two scales may be from 1 that is called the same."""
_MUCH_ROUNDING = 0.01
_LARGEST_FLOAT16 = 65_504.0
_EARLY = 4
"""Positions from 0 that are the beginning of a context."""
_NAMED = 3
"""Positions, tokens or coordinates in a sentence."""

_KINDS = {"bos": "BOS", "separator": "separators", "first_token": "the first token of a context"}
_ALWAYS = "`sparsteer cache` and `sparsteer train --model` always leave them out"


def recommendation(found: SiteFindings) -> list[str]:
    """What to leave out, and what need not be left out, a sentence for each matter."""
    return [*_excluded(found), *_outliers(found), *_coordinates(found), *_storage(found)]


def _excluded(found: SiteFindings) -> list[str]:
    """About the positions that training does not read: special tokens and first positions."""
    kinds = {_KINDS[name]: kind for name, kind in found.kinds.items() if name in _KINDS}
    if not kinds:
        return []
    harmful = {
        name: kind
        for name, kind in kinds.items()
        if kind.ratio >= _LARGE or kind.largest_ratio > found.outlier_norm
    }
    if not harmful:
        most = max(kind.largest_ratio for kind in kinds.values())
        return [
            f"{_listed([*kinds])}: at most {_times(most)} the median norm, so they would do no "
            f"harm; {_ALWAYS} all the same"
        ]
    named = [
        f"{name} (up to {_times(k.largest_ratio)} the median norm)" for name, k in harmful.items()
    ]
    content, both = found.geometry["content"], found.geometry["excluded"]
    return [
        f"leave out {_listed(named)}: with what training does not read the input scale would be "
        f"{both.scale_ratio:.3g} times as large (mean cosine of two rows "
        f"{both.mean_cosine:.2f}, without {content.mean_cosine:.2f}); {_ALWAYS}, so that only rows "
        "made in another way need it"
    ]


def _outliers(found: SiteFindings) -> list[str]:
    """About rows of enormous norm that training reads."""
    outliers, limit = found.outliers, f"{_times(found.outlier_norm)} the median norm"
    if not outliers.rows:
        largest = _times(found.kinds["content"].largest_ratio)
        return [
            f"no row that training reads is above {limit} (the largest is {largest}): nothing more "
            "to leave out"
        ]
    one = outliers.rows == 1
    without = found.geometry.get("outliers")
    scale = "" if without is None else f"; without {_it(one)} {_scale(without.scale_ratio)}"
    early = sum(p.rows for p in outliers.carriers.positions if p.position < _EARLY)
    longer = (
        ", and a longer --context-length has fewer such positions"
        if 2 * early > outliers.rows
        else ""
    )
    return [
        f"{counted(outliers.rows, 'row')} of {count(found.rows)} that training reads "
        f"{'is' if one else 'are'} above {limit} and {'holds' if one else 'hold'} "
        f"{_share(outliers.share)} of the squared norms less the center, most at "
        f"{_places(outliers.carriers)}{scale}; no option of `cache` or `train` leaves single rows "
        f"out: `train --clip-norm` limits what they do to a step, `features build --outlier-norm` "
        f"leaves them out of an index{longer}"
    ]


def _coordinates(found: SiteFindings) -> list[str]:
    """About massive values, and coordinates that hold much, in rows that training reads."""
    least = min(_MOST_HEAVY, max(_HEAVY, 10 / found.d_model))
    heavy = [one for one in found.coordinates if one.share_centered >= least]
    massive = [one for one in found.coordinates if one.ratio >= found.massive_ratio]
    constant = [o for o in found.coordinates if o.share >= least and o not in heavy]
    harmless = [one for one in massive if one not in heavy and one not in constant]
    lines: list[str] = []
    if heavy:
        without = found.geometry.get("massive_coordinates")
        scale = "" if without is None else f"; without massive ones {_scale(without.scale_ratio)}"
        held = _listed([f"{one.coordinate} ({_share(one.share_centered)})" for one in heavy])
        lines.append(
            f"{_coordinates_word(heavy)} {held} {'holds' if len(heavy) == 1 else 'hold'} much of "
            "the squared norms less the center, so that the loss and the FVU tell above all how "
            f"well {'it is' if len(heavy) == 1 else 'they are'} rebuilt{scale}; no option "
            "leaves coordinates out: prefer another site, or judge by what `sparsteer eval` "
            "recovers of the loss"
        )
    for one in sorted(constant, key=lambda one: -one.share)[:_NAMED]:
        content = found.geometry["content"]
        lines.append(
            f"coordinate {one.coordinate} (mean {one.mean:.3g}, spread {one.spread:.3g}) holds "
            f"{_share(one.share)} of the squared norms, but {_share(one.share_centered)} less the "
            "center, which training takes off by itself (mean cosine of two rows "
            f"{content.mean_cosine:.2f}, less the center {content.mean_cosine_centered:.2f}): "
            "nothing to leave out"
        )
    if harmless:
        names = _listed([str(one.coordinate) for one in harmless[:_NAMED]])
        most = _share(sum(one.share_centered for one in harmless))
        lines.append(
            f"massive values in {_coordinates_word(harmless)} {names} (up to "
            f"{_times(max(one.ratio for one in harmless))} the median magnitude) hold {most} of "
            "the squared norms less the center: too little to leave anything out for"
        )
    if not lines:
        largest = max(one.ratio for one in found.coordinates)
        lines.append(
            f"no value that training reads is massive (the largest is {_times(largest)} the median "
            "magnitude), and no coordinate holds much of the squared norms"
        )
    return lines


def _storage(found: SiteFindings) -> list[str]:
    """About the dtype of a cache."""
    added = "has added" if found.cache else "would add"
    lines = [
        f"storing rows in {dtype} {added} {_share(fraction)} to their variance: cache with "
        "--dtype float32"
        for dtype, fraction in found.rounding.items()
        if fraction >= _MUCH_ROUNDING
    ]
    largest = max(one.largest for one in found.coordinates)
    if largest > _LARGEST_FLOAT16:
        lines.append(
            f"values reach {count(largest)}, which float16 does not hold: cache with --dtype "
            "bfloat16 or float32"
        )
    return lines


def token_name(token: TokenCount) -> str:
    """The token's text between quotation marks, plainly visible, or its id."""
    return f"token {token.token}" if token.text is None else f"'{visible(token.text)}'"


def _places(carriers: Carriers) -> str:
    """The positions and tokens that carry most."""
    positions = [f"{p.position} ({count(p.rows)})" for p in carriers.positions[:_NAMED]]
    tokens = [f"{token_name(t)} ({count(t.rows)})" for t in carriers.tokens[:_NAMED]]
    return f"position {_listed(positions)} and at {_listed(tokens)}"


def _scale(ratio: float) -> str:
    if abs(ratio - 1) <= _SAME:
        return f"the input scale would hardly change ({ratio:.3f} times as large)"
    return f"the input scale would be {ratio:.3g} times as large"


def _coordinates_word(those: Sequence[CoordinateFigures]) -> str:
    return "coordinate" if len(those) == 1 else "coordinates"


def _it(one: bool) -> str:
    return "it" if one else "them"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 100 else f"{ratio:.3g} times"


def _share(fraction: float) -> str:
    return f"{100 * fraction:.2g}%" if fraction < 0.1 else f"{100 * fraction:.0f}%"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
